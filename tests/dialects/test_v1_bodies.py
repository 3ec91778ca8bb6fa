"""Whatever stands anywhere in a body: it is understood or refused, and what is understood can be answered."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from mlx_ollama.doors import DOORS
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.protocol import Decoder, Prompt, Render, encode
from mlx_ollama.schemas import known_parts
from mlx_ollama.types import Chat, Delta, Done, Event, Rendered, ToolCall, Usage

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
)
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
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
        {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,aGk="}]},
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
    [("/v1/messages", MESSAGES), ("/v1/messages/count_tokens", MESSAGES), ("/v1/responses", RESPONSES)],
)
def test_nothing_in_a_body_is_a_fault_of_ours(path: str, body: dict[str, Any]) -> None:
    door, understood = DOORS[path], 0
    for altered in _altered(body):
        try:
            call = door.decode(json.dumps(altered).encode(), {})
        except InvalidRequest:
            continue
        assert isinstance(call, Chat)
        answers: Any = door.answers(call)
        events: list[Event] = [Rendered("", 1)] if call.render_only else EVENTS
        assert json.loads(answers.whole(events))
        assert call.render_only or all(map(answers.event, EVENTS))
        # Images are refused before anything is sent.
        turns = tuple(replace(message, images=()) for message in call.messages)
        prompt = Prompt("chat", 9, 0, shift=True, messages=turns, tools=tuple(map(known_parts, call.tools)))
        (frame,) = Decoder().feed(encode(Render(1, prompt)))
        assert isinstance(frame, Render)
        understood += 1
    assert understood > 100
