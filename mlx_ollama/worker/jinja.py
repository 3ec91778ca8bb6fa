"""Conversations for Jinja chat templates, each of which has wishes of its own (wire-spec 4.3, 10.1)."""

import json
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

from mlx_ollama.errors import TemplateFailed
from mlx_ollama.protocol import Prompt
from mlx_ollama.thinking import speaks_harmony
from mlx_ollama.types import Message
from mlx_ollama.worker.legal_names import LegalNames
from mlx_ollama.worker.tokenizer import Tokenizer

_MISTRAL_ID_LENGTH = 9


class _Waiting:
    """Calls that have no result yet, as (id, name), the oldest first."""

    def __init__(self) -> None:
        self._queues: defaultdict[tuple[str, str], deque[int]] = defaultdict(deque)
        self._calls: dict[int, tuple[str, str]] = {}
        self._numbers = count()

    def add(self, id_: str, name: str) -> None:
        number = next(self._numbers)
        self._calls[number] = id_, name
        # A result without a name fits every call.
        for key in (("id", id_), ("name", name), ("name", "")):
            self._queues[key].append(number)

    def take(self, kind: str, wanted: str) -> tuple[str, str] | None:
        """The first that fits, which then waits no more."""
        queue = self._queues[kind, wanted]
        while queue:
            call = self._calls.pop(queue.popleft(), None)
            if call:
                return call
        return None


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
    *attempts, last = _attempts(_options(prompt, template))
    for options in attempts:
        with suppress(TemplateFailed):
            rendered = _rendered(tokenizer, turns, tools, options)
            break
    else:
        rendered = _rendered(tokenizer, turns, tools, last)
    return _closed(rendered, tokenizer.thinking_tags) if prompt.think_set and not prompt.think else rendered


def _rendered(
    tokenizer: Tokenizer, turns: list[dict[str, Any]], tools: list[dict[str, Any]], options: dict[str, Any]
) -> str:
    try:
        return tokenizer.apply_chat_template(turns, tools, **options)
    except TemplateFailed:
        # Templates disagree whether arguments are an object or its JSON.
        if not any("tool_calls" in turn for turn in turns):
            raise
        return tokenizer.apply_chat_template(_with_written_arguments(turns), tools, **options)


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


def _attempts(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The options, then what is left where a template refuses a level of effort: the one below, and its own."""
    yield options
    if options.get("reasoning_effort") == "max":
        yield {**options, "reasoning_effort": "high"}
    if "reasoning_effort" in options:
        yield {key: value for key, value in options.items() if key != "reasoning_effort"}


def _effort(prompt: Prompt, template: str) -> dict[str, str]:
    """Harmony cannot but think, so false is the least of it; Mistral's knows all or nothing."""
    if speaks_harmony(template):
        return {"reasoning_effort": {"": "low", "max": "high"}.get(prompt.think_level, prompt.think_level)}
    if "[THINK]" in template:
        return {"reasoning_effort": "high" if prompt.think else "none"}
    return {"reasoning_effort": prompt.think_level} if prompt.think and prompt.think_named else {}


def _turns(messages: Sequence[Message], template: str) -> list[dict[str, Any]]:
    """The messages, every call and every result with an id, as some templates insist."""
    is_short = "[TOOL_CALLS]" in template
    numbers = count()
    waiting = _Waiting()
    turns = []
    for message in messages:
        turn: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.thinking:
            turn["reasoning_content"] = turn["thinking"] = message.thinking
        if message.tool_calls:
            ids = [_id(call.id or f"call_{next(numbers)}", is_short=is_short) for call in message.tool_calls]
            for id_, call in zip(ids, message.tool_calls, strict=True):
                waiting.add(id_, call.name)
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


def _answered(message: Message, waiting: _Waiting, *, is_short: bool) -> dict[str, str]:
    """Which call a result belongs to: by id, by name, or the first that still waits."""
    named = _id(message.tool_call_id, is_short=is_short) if message.tool_call_id else ""
    call = waiting.take("id", named) if named else waiting.take("name", message.tool_name)
    if call is None:
        members = {"tool_call_id": named, "name": message.tool_name}
        return {key: value for key, value in members.items() if value}
    return {"tool_call_id": call[0], "name": message.tool_name or call[1]}


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
