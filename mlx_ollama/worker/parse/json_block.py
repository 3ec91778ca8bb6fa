"""Calls as JSON: an object or an array of them, with or without tags around it (wire-spec 4.4, 10.3)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mlx_ollama.types import ToolCall
from mlx_ollama.worker.parse.brackets import Brackets
from mlx_ollama.worker.parse.calls import Outcome
from mlx_ollama.worker.parse.json_value import json_value
from mlx_ollama.worker.parse.tags import leading
from mlx_ollama.worker.parse.toolbox import Toolbox

_VALUE = re.compile(r"\{|\[(?=\s*\{)")
_NAMES = ("name", "tool_name", "function", "tool")
_ARGUMENTS = ("arguments", "parameters", "args")
_OTHERS = ("type", "id", "tool_call_id", "index")
_FRONTS = tuple(f'{{"{key}"' for key in (*_NAMES, *_ARGUMENTS, *_OTHERS))
_LONGEST_FRONT = 64
_WRAPPERS = ("```json", "json", "[")
_NAMING = re.compile(r"[\w\s.\-:=<>\[\]\"'`|/(]*")
_LONGEST_NAMING = 256


@dataclass(frozen=True)
class JsonBlock:
    """A start tag, JSON, and perhaps an end tag: the JSON tells by itself where it ends.

    `named`: the tool's name may stand in front of the JSON, which then holds only the arguments. `argument_mark` is
    what then separates the two, where another call may follow with no start tag.
    """

    starts: tuple[str, ...]
    ends: tuple[str, ...] = ()
    leads: bool = False
    named: bool = False
    argument_mark: str = ""

    def more(self, toolbox: Toolbox) -> tuple[str, ...]:
        marked = tuple(name + self.argument_mark for name in toolbox.names) if self.argument_mark else ()
        return ("{", "[", *marked)

    def read(self, start: str, toolbox: Toolbox) -> "JsonReading":
        return JsonReading(self, start, toolbox)


class JsonReading:
    """One JSON value behind a start tag; without a start tag it has to look like a call from its first key on."""

    def __init__(self, block: JsonBlock, start: str, toolbox: Toolbox) -> None:
        self._block = block
        self._start = start
        self._toolbox = toolbox
        self._raw = start
        self._value = -1
        self._read = 0
        self._brackets = Brackets()

    def add(self, text: str) -> Outcome | None:
        self._raw += text
        if self._value < 0:
            found = _VALUE.search(self._raw, len(self._start))
            header = self._raw[len(self._start) : found.start() if found else None]
            if not self._fits(header):
                return self._only_text(len(self._start) or 1)
            if not found:
                return None
            self._value = self._read = found.start()
        return self._advance()

    def flush(self) -> Outcome:
        return Outcome(text=self._raw)

    def _fits(self, header: str) -> bool:
        """Whether this may stand in front of the JSON."""
        bare = header.strip()
        if not self._block.named:
            return not bare or any(wrapper.startswith(bare) for wrapper in _WRAPPERS)
        is_short = len(header) <= _LONGEST_NAMING and _NAMING.fullmatch(header)
        return bool(is_short) and not any(end in header for end in self._block.ends)

    def _only_text(self, length: int) -> Outcome:
        """So much is no call; what follows may hold one."""
        return Outcome(text=self._raw[:length], rest=self._raw[length:])

    def _advance(self) -> Outcome | None:
        if not self._start and not self._looks_like_a_call():
            return self._only_text(self._value + 1)
        if not self._brackets.broken:
            length = self._brackets.add(self._raw[self._read :])
            self._read = len(self._raw) if length is None else self._read + length
            if length is None:
                return None
        if self._brackets.broken:
            return self._repair()
        return self._outcome("")

    def _looks_like_a_call(self) -> bool:
        front = "".join(self._raw[self._value : self._value + _LONGEST_FRONT].split()).removeprefix("[")
        header = self._raw[: self._value].strip()
        return bool(header) or any(front.startswith(known) or known.startswith(front) for known in _FRONTS)

    def _repair(self) -> Outcome | None:
        """An end tag before the last brackets: models forget one now and then."""
        tag = leading(self._raw[self._read :], self._block.ends)
        if tag == "":
            return None
        return self._outcome(self._brackets.closers if tag else "")

    def _outcome(self, closers: str) -> Outcome:
        header = self._raw[len(self._start) : self._value] if self._block.named else ""
        calls = calls_in(self._raw[self._value : self._read] + closers, self._toolbox, header)
        return Outcome(calls=calls, rest=self._raw[self._read :]) if calls else self._only_text(self._read)


def calls_in(text: str, toolbox: Toolbox, header: str = "") -> tuple[ToolCall, ...]:
    """The calls that JSON spells; empty if any part of it is none. `header` may name the tool."""
    try:
        value = json_value(text)
    except ValueError:
        return ()
    named = toolbox.mentioned(header)
    if named:
        calls = [toolbox.call(named, value)]
    else:
        calls = [_call(entry, toolbox) for entry in (value if isinstance(value, list) else [value])]
    return tuple(call for call in calls if call) if all(calls) else ()


def _call(entry: object, toolbox: Toolbox) -> ToolCall | None:
    if not isinstance(entry, Mapping):
        return None
    name = next((entry[key] for key in _NAMES if key in entry), None)
    if isinstance(name, Mapping):
        return _call(name, toolbox)
    return toolbox.call(name, next((entry[key] for key in _ARGUMENTS if key in entry), None))
