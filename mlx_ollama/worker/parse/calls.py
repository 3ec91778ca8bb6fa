"""Tool calls, apart from the text around them (wire-spec 4.4, 10.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mlx_ollama.types import ToolCall
from mlx_ollama.worker.parse.tags import TagSearch, leading
from mlx_ollama.worker.parse.toolbox import Toolbox

_SPACE = " \t\r\n"
_SEPARATORS = _SPACE + ",;]}"


@dataclass(frozen=True)
class Outcome:
    """What became of something that looked like a call: calls, or else `text`. `rest` has still to be read."""

    calls: tuple[ToolCall, ...] = ()
    text: str = ""
    rest: str = ""


class Reading(Protocol):
    """The inside of one call, or of several, as it grows."""

    def add(self, text: str) -> Outcome | None:
        """What became of it; None while that cannot be told."""

    def flush(self) -> Outcome:
        """The same, when no text follows."""


class Block(Protocol):
    """A way to write calls.

    Each begins with one of `starts`; with `leads`, the first thing in an answer may be one without a start. `ends` are
    tags that may be left over behind a call.
    """

    @property
    def starts(self) -> tuple[str, ...]: ...
    @property
    def ends(self) -> tuple[str, ...]: ...
    @property
    def leads(self) -> bool: ...

    def more(self, toolbox: Toolbox) -> tuple[str, ...]:
        """What begins another call directly behind one."""

    def read(self, start: str, toolbox: Toolbox) -> Reading:
        """A call of which `start` has come."""


class Calls:
    """Splits an answer into text and calls.

    `dropped` are tags that mean nothing to a reader. With `trims`, white space in front of a call is dropped; that
    between calls, and that behind one where nothing stood in front of it, always is.
    """

    def __init__(
        self, blocks: Sequence[Block], toolbox: Toolbox, *, trims: bool = False, dropped: Sequence[str] = ()
    ) -> None:
        self._toolbox = toolbox
        self._blocks = {start: block for block in blocks for start in block.starts}
        self._search = TagSearch((*self._blocks, *dropped), trims=trims)
        self._front = next((block for block in blocks if block.leads), None)
        self._block: Block | None = None
        self._reading: Reading | None = None
        self._behind: tuple[tuple[str, ...], tuple[str, ...]] | None = None
        self._held = ""
        self._gap = ""
        self._said: list[str] = []
        self._has_said = False
        self._calls: list[ToolCall] = []

    def add(self, text: str) -> tuple[str, tuple[ToolCall, ...]]:
        """The text that is certain, and the calls that are complete."""
        while text:
            text = self._step(text)
        return self._take()

    def flush(self) -> tuple[str, tuple[ToolCall, ...]]:
        """The rest of both; a call that is not complete is text."""
        if self._reading:
            self._end_call(self._reading.flush())
        self._said.append(self._held.strip(_SPACE) if self._behind else self._held)
        self._said.append(self._search.flush())
        return self._take()

    def _step(self, text: str) -> str:
        """Take some text; what is left of it has to be looked at again."""
        if self._reading:
            outcome = self._reading.add(text)
            return self._end_call(outcome) if outcome else ""
        if self._behind:
            return self._step_behind(*self._behind, text)
        if self._front:
            return self._step_front(self._front, text)
        found = self._search.add(text)
        self._said.append(found.before)
        if found.tag in self._blocks:
            self._begin(self._blocks[found.tag], found.tag, found.gap)
        else:
            self._said.append(found.gap)
        return found.rest

    def _step_front(self, block: Block, text: str) -> str:
        self._held += text
        bare = self._held.lstrip()
        if not bare:
            return ""
        self._front = None
        held, self._held = self._held, ""
        if bare[0] not in "{[" or leading(bare, self._blocks) is not None:
            return held
        self._begin(block, "", held[: len(held) - len(bare)])
        return bare

    def _step_behind(self, ends: tuple[str, ...], more: tuple[str, ...], text: str) -> str:
        self._held += text
        bare = self._held.lstrip(_SEPARATORS if ends or more else _SPACE)
        tag = leading(bare, (*ends, *more, *self._blocks))
        if tag == "":
            return ""
        held, self._held = self._held, ""
        if tag is not None and tag in ends:
            self._behind = (ends, ())
            return bare.removeprefix(tag)
        self._behind = None
        if tag is None:
            has_said = self._has_said or any(text.strip() for text in self._said)
            return held if has_said else held.lstrip(_SPACE)
        if tag in more and self._block:
            self._begin(self._block, "", held[: len(held) - len(bare)])
        return bare

    def _begin(self, block: Block, start: str, gap: str) -> None:
        self._block, self._gap = block, gap
        self._reading = block.read(start, self._toolbox)

    def _end_call(self, outcome: Outcome) -> str:
        self._reading = None
        if outcome.calls and self._block:
            self._calls += outcome.calls
            self._behind = (self._block.ends, self._block.more(self._toolbox))
        else:
            self._said.append(self._gap + outcome.text)
        return outcome.rest

    def _take(self) -> tuple[str, tuple[ToolCall, ...]]:
        text, calls = "".join(self._said), tuple(self._calls)
        self._has_said = self._has_said or bool(text.strip())
        self._said.clear()
        self._calls.clear()
        return text, calls
