"""Conversations for Jinja chat templates, each of which has wishes of its own (wire-spec 4.3, 10.1)."""

import json
from collections.abc import Sequence
from itertools import count
from typing import Any

from mlx_ollama.errors import TemplateFailed
from mlx_ollama.protocol import Prompt
from mlx_ollama.thinking import speaks_harmony
from mlx_ollama.types import Message
from mlx_ollama.worker.legal_names import LegalNames
from mlx_ollama.worker.tokenizer import Tokenizer

_MISTRAL_ID_LENGTH = 9


def render_chat(tokenizer: Tokenizer, prompt: Prompt, messages: Sequence[Message]) -> str:
    """The prompt by the model's own template, its thinking on or off.

    Raises:
        TemplateFailed: with the template's own complaint.
    """
    template, tools = tokenizer.chat_template, list(prompt.tools)
    if speaks_harmony(template):
        names = LegalNames.of(tools)
        messages, tools = names.in_messages(messages), names.in_tools(tools)
    turns = _turns(messages, template)
    options = _options(prompt, template)
    try:
        rendered = tokenizer.apply_chat_template(turns, tools, **options)
    except TemplateFailed:
        # Templates disagree whether arguments are an object or its JSON.
        if not any("tool_calls" in turn for turn in turns):
            raise
        rendered = tokenizer.apply_chat_template(_with_written_arguments(turns), tools, **options)
    return _closed(rendered, tokenizer.thinking_tags) if prompt.think_set and not prompt.think else rendered


def _closed(rendered: str, tags: tuple[str, str] | None) -> str:
    """Some templates open the thinking whatever they are told; where it is not wanted it is closed again."""
    if tags is None or not rendered.rstrip().endswith(tags[0]):
        return rendered
    return f"{rendered.rstrip()}\n\n{tags[1]}\n\n"


def _options(prompt: Prompt, template: str) -> dict[str, Any]:
    """What families call `think`."""
    options: dict[str, Any] = {"enable_thinking": prompt.think}
    if not template:
        # A renderer in Python, which takes no argument that it does not know.
        return options
    options["thinking"] = prompt.think
    if "reasoning_effort" in template and prompt.think_set:
        options |= _effort(prompt, template)
    return options


def _effort(prompt: Prompt, template: str) -> dict[str, str]:
    """Harmony cannot but think, so false is the least of it; Mistral's knows all or nothing."""
    if speaks_harmony(template):
        return {"reasoning_effort": prompt.think_level or "low"}
    if "[THINK]" in template:
        return {"reasoning_effort": "high" if prompt.think else "none"}
    is_chosen = prompt.think and prompt.think_level != "medium"
    return {"reasoning_effort": prompt.think_level} if is_chosen else {}


def _turns(messages: Sequence[Message], template: str) -> list[dict[str, Any]]:
    """The messages, every call and every result with an id, as some templates insist."""
    is_short = "[TOOL_CALLS]" in template
    numbers = count()
    waiting: list[tuple[str, str]] = []
    turns = []
    for message in messages:
        turn: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.thinking:
            turn["reasoning_content"] = turn["thinking"] = message.thinking
        if message.tool_calls:
            ids = [_id(call.id or f"call_{next(numbers)}", is_short=is_short) for call in message.tool_calls]
            waiting += zip(ids, (call.name for call in message.tool_calls), strict=True)
            turn["tool_calls"] = [
                {"id": id_, "type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
                for id_, call in zip(ids, message.tool_calls, strict=True)
            ]
            if message.content and message.thinking and speaks_harmony(template):
                # What stands before a call has one place there.
                turn["content"] = ""
                turn["thinking"] = f"{message.thinking}\n\n{message.content}"
        if message.role == "tool":
            turn |= _answered(message, waiting, is_short=is_short)
        turns.append(turn)
    return turns


def _answered(message: Message, waiting: list[tuple[str, str]], *, is_short: bool) -> dict[str, str]:
    """Which call a result belongs to: by id, by name, or the first that still waits."""
    named = _id(message.tool_call_id, is_short=is_short) if message.tool_call_id else ""
    fitting = [call for call in waiting if (call[0] == named if named else message.tool_name in ("", call[1]))]
    if not fitting:
        members = {"tool_call_id": named, "name": message.tool_name}
        return {key: value for key, value in members.items() if value}
    waiting.remove(fitting[0])
    return {"tool_call_id": fitting[0][0], "name": message.tool_name or fitting[0][1]}


def _id(text: str, *, is_short: bool) -> str:
    """Mistral's templates refuse ids of any other length."""
    if not is_short:
        return text
    return "".join(filter(str.isalnum, text))[-_MISTRAL_ID_LENGTH:].rjust(_MISTRAL_ID_LENGTH, "0")


def _with_written_arguments(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        turn | {"tool_calls": [_written(call) for call in turn["tool_calls"]]} if "tool_calls" in turn else turn
        for turn in turns
    ]


def _written(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}
