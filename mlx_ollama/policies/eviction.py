"""Which models go when memory runs short: pure choosers that the pool asks. Theirs is the order, not the deed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mlx_ollama.choosers import made


@dataclass(frozen=True)
class IdleModel:
    """What a chooser knows of a model that is loaded and that nobody uses.

    `key` identifies its weights, `size` is in bytes; `idle_seconds` have passed since it was last used, and
    `expires_seconds` are left until its keep-alive ends; `load_seconds` is what loading it took.
    """

    key: str
    name: str
    size: int
    use_count: int
    idle_seconds: float
    expires_seconds: float
    load_seconds: float


class Eviction(Protocol):
    """A chooser. It is made without arguments, must not wait for anything, and sees idle models only."""

    def order(self, idle: Sequence[IdleModel]) -> Sequence[IdleModel]:
        """The models that may go, the first to go first. Those left out stay, except in an emergency."""
        ...


class LeastRecentlyUsed:
    """The model that nobody has asked for the longest goes first."""

    def order(self, idle: Sequence[IdleModel]) -> Sequence[IdleModel]:
        return sorted(idle, key=lambda model: (-model.idle_seconds, model.name))


def chooser(named: str, home: Path | None = None) -> Eviction:
    """The chooser called `package.module:Class`, which may lie in `home` if it is not one of ours.

    Raises:
        NotAChooser: if there is no such class, or it has no `order`, or cannot be made.
    """
    found: Eviction = made(named, "idle", home)
    return found
