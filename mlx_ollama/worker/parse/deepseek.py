"""DeepSeek's calls (wire-spec 10.3): R1 and V3 name a type and put the arguments into a code block, V3.1 does not."""

# ruff: noqa: RUF001 - the tags have these characters

import re

from mlx_ollama.types import ToolCall
from mlx_ollama.worker.parse.toolbox import Toolbox

CALLS_BEGIN, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
# The group is atomic: where no end follows the first separator, none follows a later one.
_CALL = re.compile(r"\s*<｜tool▁call▁begin｜>(?>(.*?)<｜tool▁sep｜>)(.*?)<｜tool▁call▁end｜>", re.DOTALL)
_CODE, _CODE_END = "```json", "```"


def deepseek_calls(text: str, toolbox: Toolbox) -> tuple[ToolCall, ...]:
    """The calls of one section."""
    calls = []
    at = 0
    while found := _CALL.match(text, at):
        name, arguments = found.groups()
        if _CODE in arguments:
            name, _, code = arguments.partition(_CODE)
            arguments = code.rpartition(_CODE_END)[0]
        calls.append(toolbox.call(name, arguments.strip()))
        at = found.end()
    is_all = not text[at:].strip() and all(calls)
    return tuple(call for call in calls if call) if is_all else ()
