"""Readers of calls in tags: qwen3-coder and GLM with their kin, whose arguments are all text (wire-spec 10.3)."""

import re

from mlx_ollama.types import ToolCall
from mlx_ollama.worker.parse.fenced import Reader
from mlx_ollama.worker.parse.toolbox import Toolbox

_FUNCTION = re.compile(r"\s*<function=([^<>\s]+)\s*>(.*?)</function>", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^<>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)


def qwen_calls(text: str, toolbox: Toolbox) -> tuple[ToolCall, ...]:
    """`<function=f><parameter=p>v</parameter></function>`, once or several times."""
    calls = []
    at = 0
    while function := _FUNCTION.match(text, at):
        name, body = function.groups()
        arguments = _pairs(_PARAMETER, body)
        calls.append(None if arguments is None else toolbox.call(name, toolbox.typed(name, arguments)))
        at = function.end()
    is_all = not text[at:].strip() and all(calls)
    return tuple(call for call in calls if call) if is_all else ()


def keyed_reader(prefix: str = "") -> Reader:
    """`f<arg_key>k</arg_key><arg_value>v</arg_value>`; some families have a prefix in the names of these tags."""
    key, value = f"{prefix}arg_key", f"{prefix}arg_value"
    # The group is atomic: where no end follows the first value's tag, none follows a later one.
    pair = re.compile(rf"\s*<{key}>(?>(.*?)</{key}>\s*<{value}>)(.*?)</{value}>", re.DOTALL)

    def read(text: str, toolbox: Toolbox) -> tuple[ToolCall, ...]:
        name, tag, _ = text.partition(f"<{key}>")
        name = name.strip()
        arguments = _pairs(pair, text[text.index(tag) :] if tag else "")
        if arguments is None:
            return ()
        call = toolbox.call(name, toolbox.typed(name, arguments, guess=True))
        return (call,) if call else ()

    return read


def _pairs(pattern: "re.Pattern[str]", text: str) -> dict[str, str] | None:
    """Keys and values; None if there is anything else."""
    found = {}
    at = 0
    while pair := pattern.match(text, at):
        found[pair[1].strip()] = pair[2]
        at = pair.end()
    return None if text[at:].strip() else found
