"""Which remembered prompts go when there is no room for more: choosers. Theirs is the order, not the deed."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol


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


class NotAChooser(ValueError):
    """What a setting names is no chooser; the message says why."""


def chooser(named: str) -> Chooser:
    """The chooser called `package.module:Class`.

    Raises:
        NotAChooser: if there is no such class, or it has no `order`, or cannot be made.
    """
    module, _, name = named.partition(":")
    try:
        made = getattr(import_module(module), name)()
    # Whatever importing and making somebody's class may raise, the operator shall read it.
    except Exception as error:
        raise NotAChooser(
            f"MLX_API_PROMPT_CACHE_CHOOSER: {named} cannot be used: {type(error).__name__}: {error}"
        ) from error
    if not callable(getattr(made, "order", None)):
        raise NotAChooser(f"MLX_API_PROMPT_CACHE_CHOOSER: {named} has no method order(remembered)")
    found: Chooser = made
    return found
