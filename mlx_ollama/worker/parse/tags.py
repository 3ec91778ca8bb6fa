"""Tags in text that arrives in pieces: what may be the beginning of one is withheld, and nothing else is."""

from collections.abc import Iterable
from dataclasses import dataclass

from mlx_ollama.worker.text import overlap


@dataclass(frozen=True)
class Found:
    """`before` is certain to be in front of every tag; `tag` is empty while none is complete.

    `gap` is the white space between the two, where it belongs to the tag; `rest` is what follows it.
    """

    before: str
    gap: str = ""
    tag: str = ""
    rest: str = ""


class TagSearch:
    """Looks for the first of some tags. With `trims`, the white space in front of a tag belongs to it."""

    def __init__(self, tags: Iterable[str], *, trims: bool) -> None:
        self._tags = tuple(tags)
        self._trims = trims
        self._held = ""

    def add(self, text: str) -> Found:
        """What is known with this text; after a tag the search is as new."""
        held = self._held + text
        at, tag = min(
            ((at, tag) for tag in self._tags if (at := held.find(tag)) >= 0),
            key=lambda found: (found[0], -len(found[1])),
            default=(-1, ""),
        )
        if tag:
            self._held = ""
            before = self._certain(held[:at])
            return Found(before, held[len(before) : at], tag, held[at + len(tag) :])
        before = self._certain(held[: len(held) - max((overlap(held, tag) for tag in self._tags), default=0)])
        self._held = held[len(before) :]
        return Found(before)

    def flush(self) -> str:
        """What was withheld, when no text follows."""
        held, self._held = self._held, ""
        return held

    def _certain(self, text: str) -> str:
        return text.rstrip() if self._trims and self._tags else text


def leading(text: str, tags: Iterable[str]) -> str | None:
    """The tag that `text` begins with; empty while it may become one; None if it begins with no tag."""
    if not text:
        return ""
    tags = tuple(tags)
    complete = next((tag for tag in tags if text.startswith(tag)), None)
    if complete is not None:
        return complete
    return "" if any(tag.startswith(text) for tag in tags) else None
