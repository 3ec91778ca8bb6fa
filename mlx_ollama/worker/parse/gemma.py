"""FunctionGemma's calls, `call:f{key:<escape>text<escape>,other:3}` (wire-spec 10.3)."""

import re
from typing import Any

from mlx_ollama.types import ToolCall
from mlx_ollama.worker.parse.toolbox import Toolbox

_CALL = re.compile(r"\s*call:([\w.\-]+)\s*\{")
_KEY = re.compile(r"\s*+(?:<escape>)?([^:{}<>,]++)(?:<escape>)?:")
_TEXT = re.compile(r"\s*<escape>(.*?)<escape>", re.DOTALL)
_BARE = re.compile(r"\s*([^,{}\[\]<]*)")
_MEMBER_END = re.compile(r"\s*([,}])")
_ELEMENT_END = re.compile(r"\s*([,\]])")
_OPENING = re.compile(r"\s*([{\[])")
_EMPTY_OBJECT = re.compile(r"\s*\}")
_EMPTY_ARRAY = re.compile(r"\s*\]")


class _Bare(str):
    """A value that is not marked as text, and may be a number."""

    __slots__ = ()


class _NotThis(ValueError):
    pass


def gemma_calls(text: str, toolbox: Toolbox) -> tuple[ToolCall, ...]:
    """The calls between one pair of tags."""
    calls = []
    at = 0
    try:
        while found := _CALL.match(text, at):
            arguments, at = _object(text, found.end(), found[1], toolbox)
            calls.append(toolbox.call(found[1], arguments))
    except (_NotThis, RecursionError):
        return ()
    is_all = not text[at:].strip() and all(calls)
    return tuple(call for call in calls if call) if is_all else ()


def _object(text: str, at: int, name: str, toolbox: Toolbox) -> tuple[dict[str, Any], int]:
    """The members behind `{`. `name` is the tool whose arguments they are, empty further in."""
    members: dict[str, Any] = {}
    if empty := _EMPTY_OBJECT.match(text, at):
        return members, empty.end()
    mark = ","
    while mark == ",":
        key, at = _match(_KEY, text, at)
        value, at = _value(text, at)
        # Text stays text; the schema has a say only in what is not marked.
        key = key.strip()
        members[key] = toolbox.typed(name, {key: str(value)}, guess=True)[key] if isinstance(value, _Bare) else value
        mark, at = _match(_MEMBER_END, text, at)
    return members, at


def _array(text: str, at: int) -> tuple[list[Any], int]:
    elements: list[Any] = []
    if empty := _EMPTY_ARRAY.match(text, at):
        return elements, empty.end()
    mark = ","
    while mark == ",":
        value, at = _value(text, at)
        elements.append(_plain(value))
        mark, at = _match(_ELEMENT_END, text, at)
    return elements, at


def _value(text: str, at: int) -> tuple[Any, int]:
    if found := _TEXT.match(text, at):
        return found[1], found.end()
    if found := _OPENING.match(text, at):
        return _object(text, found.end(), "", _NO_TOOLS) if found[1] == "{" else _array(text, found.end())
    value, at = _match(_BARE, text, at)
    return _Bare(value.strip()), at


def _plain(value: Any) -> Any:
    return _NO_TOOLS.typed("", {"": str(value)}, guess=True)[""] if isinstance(value, _Bare) else value


def _match(pattern: "re.Pattern[str]", text: str, at: int) -> tuple[str, int]:
    found = pattern.match(text, at)
    if found is None:
        raise _NotThis(text[at:])
    return found[1], found.end()


_NO_TOOLS = Toolbox(())
