"""Calls between a start and an end tag, in a language of their own (wire-spec 10.3)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from mlx_ollama.types import ToolCall
from mlx_ollama.worker.parse.calls import Outcome
from mlx_ollama.worker.parse.toolbox import Toolbox

Reader: TypeAlias = Callable[[str, Toolbox], tuple[ToolCall, ...]]
"""The calls in the text between two tags; empty if any part of it is none."""


@dataclass(frozen=True)
class FencedBlock:
    """`start` … `end`. With `whole`, the reader is given the tags, too."""

    start: str
    end: str
    reader: Reader
    whole: bool = False
    ends: tuple[str, ...] = ()
    leads: bool = False

    @property
    def starts(self) -> tuple[str, ...]:
        return (self.start,)

    def more(self, toolbox: Toolbox) -> tuple[str, ...]:
        return ()

    def read(self, start: str, toolbox: Toolbox) -> "FencedReading":
        return FencedReading(self, toolbox)


class FencedReading:
    """What stands behind the start tag, up to the end tag."""

    def __init__(self, block: FencedBlock, toolbox: Toolbox) -> None:
        self._block = block
        self._toolbox = toolbox
        self._inside = ""

    def add(self, text: str) -> Outcome | None:
        start, end = self._block.start, self._block.end
        searched = max(0, len(self._inside) - len(end))
        self._inside += text
        at = self._inside.find(end, searched)
        if at < 0:
            return None
        inside, rest = self._inside[:at], self._inside[at + len(end) :]
        calls = self._block.reader(start + inside + end if self._block.whole else inside, self._toolbox)
        if calls:
            return Outcome(calls=calls, rest=rest)
        # The start may be text, and the real one come later.
        again = inside.rfind(start)
        if again < 0:
            return Outcome(text=start + inside + end, rest=rest)
        return Outcome(text=start + inside[:again], rest=inside[again:] + end + rest)

    def flush(self) -> Outcome:
        return Outcome(text=self._block.start + self._inside)
