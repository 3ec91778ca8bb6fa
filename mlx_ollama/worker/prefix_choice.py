"""Which remembered prompts go when there is no room for more: choosers. Theirs is the order, not the deed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mlx_ollama.choosers import NotAChooser, made


@dataclass(frozen=True)
class Remembered:
    """What a chooser knows of a prompt: how many tokens, how many bytes, how often it was of use, and how lately."""

    tokens: int
    size: int
    uses: int
    idle_seconds: float


class Chooser(Protocol):
    """Is made without arguments, and must not wait for anything."""

    def order(self, remembered: Sequence[Remembered]) -> Sequence[Remembered]:
        """The prompts, the first to go first; those left out go last."""
        ...


class LeastRecentlyUsed:
    """What has been of no use for the longest goes first."""

    def order(self, remembered: Sequence[Remembered]) -> Sequence[Remembered]:
        return sorted(remembered, key=lambda prompt: -prompt.idle_seconds)


def chooser(named: str, home: Path | None = None) -> Chooser:
    """The chooser called `package.module:Class`, which may lie in `home` if it is not one of ours.

    Raises:
        NotAChooser: if there is no such class, or it has no `order`, or cannot be made.
    """
    try:
        found: Chooser = made(named, "remembered", home)
    except NotAChooser as error:
        raise NotAChooser(f"MLX_API_PROMPT_CACHE_CHOOSER: {error}") from error
    return found
