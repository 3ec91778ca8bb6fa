"""mlx-lm's own readers of calls, made safe: what they skip or fail at is text again."""

from collections.abc import Callable, Mapping
from typing import Any

from mlx_ollama.types import ToolCall
from mlx_ollama.worker.parse.fenced import Reader
from mlx_ollama.worker.parse.toolbox import Toolbox

_ONE_PER_CALL = {
    "kimi_k2": "<|tool_call_begin|>",
    "kimi_k3": "<|open|>call",
    "minimax_m2": "<invoke ",
    "muse_spark": "<atem:invoke",
}
"""What each call begins with where a reader passes over calls that it cannot read."""

_BEGINNINGS = {**_ONE_PER_CALL, "gemma4": "call:"}
LONGEST_CALLS = 1 << 16
MOST_CALLS = 64
"""Characters and calls at once. These readers take time with the product of the two where calls have no end."""

_ALL_TEXT = ("minimax_m2", "minicpm5")
"""Formats that have only strings: we tell the types, as for our own readers."""


def foreign_reader(kind: str, parse: Callable[[str, Any], Any]) -> Reader:
    """A reader by mlx-lm's function `parse` of the module `kind`."""
    mark, beginning = _ONE_PER_CALL.get(kind, ""), _BEGINNINGS.get(kind)

    def read(text: str, toolbox: Toolbox) -> tuple[ToolCall, ...]:
        if len(text) > LONGEST_CALLS or (beginning and text.count(beginning) > MOST_CALLS):
            return ()
        try:
            found = parse(text, toolbox.all_strings)
        # Each of them fails in its own way at what a model makes up.
        except Exception:  # noqa: BLE001
            return ()
        entries = found if isinstance(found, list) else [found]
        if mark and mark in text and text.count(mark) != len(entries):
            return ()
        calls = [_call(entry, toolbox, is_text=kind in _ALL_TEXT) for entry in entries]
        return tuple(call for call in calls if call) if all(calls) else ()

    return read


def _call(entry: object, toolbox: Toolbox, *, is_text: bool) -> ToolCall | None:
    if not isinstance(entry, Mapping):
        return None
    name, arguments = entry.get("name"), entry.get("arguments")
    if is_text and isinstance(name, str) and isinstance(arguments, Mapping):
        arguments = toolbox.typed(name, arguments)
    return toolbox.call(name, arguments)
