"""Whatever stands anywhere in a body: it is understood or refused, and what is understood can be answered."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from mlx_ollama.doors import DOORS
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.framing import Decoder, ProtocolError, encode
from mlx_ollama.protocol import Prompt, Render
from mlx_ollama.schemas import known_parts
from mlx_ollama.types import Chat, Delta, Done, Event, Generation, Rendered, ToolCall, Usage

DEEP: Any = json.loads("[" * 300 + "]" * 300)
ODD: tuple[Any, ...] = (
    None,
    True,
    5,
    1.5,
    "x",
    "",
    [],
    {},
    [5],
    [None],
    [[]],
    {"type": 5},
    {"type": "x"},
    [{"type": []}],
    [DEEP],
    {"type": DEEP},
)
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
URL = "data:image/png;base64,aGk="
IMAGE = {"type": "image", "source": {"type": "base64", "data": "aGk="}}
MESSAGES = {
    "model": "m",
    "max_tokens": 9,
    "system": [{"type": "text", "text": "s"}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "t"},
                {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "r"}]},
                {"type": "web_search_tool_result", "tool_use_id": "1", "content": [{"title": "t", "url": "u"}]},
            ],
        },
    ],
    "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}],
    "thinking": {"type": "enabled"},
    "output_config": {"effort": "low"},
    "stop_sequences": ["x"],
    "temperature": 1,
    "top_k": 3,
    "stream": True,
}
RESPONSES = {
    "model": "m",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": URL}]},
        {"type": "reasoning", "encrypted_content": "t", "summary": [{"type": "summary_text", "text": "t"}]},
        {"type": "function_call", "call_id": "1", "name": "f", "namespace": "n", "arguments": '{"a":1}'},
        {"type": "function_call_output", "call_id": "1", "output": "r"},
    ],
    "instructions": "s",
    "tools": [
        {"type": "function", "name": "f", "parameters": SCHEMA, "strict": True, "description": "d"},
        {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f"}]},
    ],
    "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
    "reasoning": {"effort": "low", "summary": "auto"},
    "max_output_tokens": 9,
    "temperature": 0.5,
    "truncation": "auto",
    "stream": True,
}
FUNCTION = {"name": "f", "arguments": '{"a":1}'}
CHAT = {
    "model": "m",
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": URL}}]},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "aGk="}}]},
        {"role": "assistant", "reasoning": "t", "tool_calls": [{"id": "1", "index": 0, "function": FUNCTION}]},
        {"role": "tool", "tool_call_id": "1", "name": "f", "content": "r"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
    "stream": True,
    "stream_options": {"include_usage": True},
    "stop": ["x"],
    "reasoning": {"effort": "low"},
    "reasoning_effort": "low",
    "logprobs": True,
    "top_logprobs": 2,
    "n": 1,
    "temperature": 0,
    "max_tokens": 5,
}
COMPLETION = {
    "model": "m",
    "prompt": "a",
    "suffix": "b",
    "stop": ["x"],
    "logprobs": 1,
    "top_p": 0,
    "stream": True,
    "stream_options": {"include_usage": True},
}
EVENTS: list[Event] = [
    Delta("", thinking="t"),
    Delta("a"),
    Delta("", tool_calls=(ToolCall("f", {"a": 1}, "c"),)),
    Done("stop", Usage(1, 1, 1, 1)),
]


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _places(value[key], (*path, key))


def _altered(body: dict[str, Any]) -> Iterator[Any]:
    for path in _places(body):
        for odd in ODD:
            altered: Any = {"": copy.deepcopy(body)}
            target = altered
            for key in ("", *path)[:-1]:
                target = target[key]
            target[("", *path)[-1]] = odd
            yield altered[""]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", MESSAGES),
        ("/v1/messages/count_tokens", MESSAGES),
        ("/v1/responses", RESPONSES),
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", COMPLETION),
    ],
)
def test_nothing_in_a_body_is_a_fault_of_ours(path: str, body: dict[str, Any]) -> None:
    door, understood = DOORS[path], 0
    for altered in _altered(body):
        try:
            call = door.decode(json.dumps(altered).encode(), {})
            assert isinstance(call, Generation)
            # What is nested too deeply goes no further than here.
            (frame,) = Decoder().feed(encode(Render(1, _prompt(call))))
        except (InvalidRequest, ProtocolError):
            continue
        assert isinstance(frame, Render)
        answers: Any = door.answers(call)
        events: list[Event] = [Rendered("", 1)] if call.render_only else EVENTS
        assert json.loads(answers.whole(events))
        assert call.render_only or all(map(answers.event, EVENTS))
        understood += 1
    assert understood > 30


def _prompt(call: Generation) -> Prompt:
    """What goes to a worker; images and sounds are refused before that."""
    given, tools = (call.messages, call.tools) if isinstance(call, Chat) else ((), ())
    turns = tuple(replace(message, images=(), audio=()) for message in given)
    return Prompt("chat", 9, 0, shift=True, messages=turns, tools=tuple(map(known_parts, tools)))
