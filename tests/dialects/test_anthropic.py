"""Requests and errors of `/v1/messages` (wire-spec 8.8)."""

import base64
import json
from typing import Any

import pytest

from mlx_ollama.dialects.anthropic import decode_count, decode_messages, refuse
from mlx_ollama.dialects.anthropic_answers import CountAnswers, MessagesAnswers, estimated_tokens
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.types import Chat, Delta, Done, Message, Rendered, ToolCall, Usage

HI = [{"role": "user", "content": "hi"}]
PNG = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": base64.b64encode(b"p").decode()},
}
DONE = Done("stop", Usage(3, 1, 2, 1))


def _decode(**members: Any) -> Chat:
    body = {"model": "m", "max_tokens": 5, "messages": HI, **members}
    return decode_messages(json.dumps(body).encode(), {})


def _complaint(**members: Any) -> str:
    with pytest.raises(InvalidRequest) as raised:
        _decode(**members)
    return raised.value.message


def test_a_plain_request() -> None:
    call = _decode(system="be nice", temperature=0.5, top_p=0.9, top_k=3, stop_sequences=["x"], metadata={"a": 1})
    assert call.messages == (Message("system", "be nice"), Message("user", "hi"))
    assert call.options == {"num_predict": 5, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "stop": ("x",)}
    assert (call.stream, call.think, call.think_if_able) == (False, None, True)
    blocks = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}}]
    assert _decode(system=blocks).messages[0] == Message("system", "ab")


def test_blocks_become_turns() -> None:
    call = _decode(
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "look"}, PNG, {"type": "unheard_of"}, 5]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "Sure"},
                    {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}},
                    {"type": "tool_use", "id": "2", "name": "g", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "and "},
                    {"type": "tool_result", "tool_use_id": "2", "content": [{"type": "text", "text": "two"}, PNG]},
                    {"type": "text", "text": "now?"},
                    {"type": "tool_result", "tool_use_id": "1", "content": "one", "is_error": True},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "9"}]},
        ]
    )
    calls = (ToolCall("f", {"x": 1}, "1", 0), ToolCall("g", {}, "2", 1))
    assert call.messages == (
        Message("user", "look", images=(b"p",)),
        Message("assistant", "Sure", "hm", tool_calls=calls),
        Message("tool", "two", images=(b"p",), tool_name="g", tool_call_id="2"),
        Message("tool", "one", tool_name="f", tool_call_id="1"),
        Message("user", "and now?"),
        Message("tool", "", tool_call_id="9"),
    )


def test_what_was_found_on_the_web_is_read_again() -> None:
    used: Any = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}}
    found = [{"type": "web_search_result", "title": "T", "url": "u"}]
    results: list[Any] = [{"type": "web_search_tool_result", "tool_use_id": "s", "content": found}]
    failed = {"type": "web_search_tool_result_error", "error_code": "unavailable"}
    results.append({"type": "web_search_tool_result", "tool_use_id": "s", "content": failed})
    call = _decode(messages=[{"role": "assistant", "content": [used]}, {"role": "user", "content": results}])
    assert call.messages == (
        Message("assistant", "", tool_calls=(ToolCall("web_search", {"query": "q"}, "s"),)),
        Message("tool", "- T: u", tool_name="web_search", tool_call_id="s"),
        Message("tool", "unavailable", tool_name="web_search", tool_call_id="s"),
    )


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"model": ""}, "model is required"),
        ({"max_tokens": None}, "max_tokens is required and must be positive"),
        ({"max_tokens": -1}, "max_tokens is required and must be positive"),
        ({"messages": []}, "messages is required"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "invalid image source"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url"}}]}]},
            "invalid image source type: url. Only base64 images are supported.",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "name": "f"}]}]},
            "tool_use block missing required 'id' field",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "1"}]}]},
            "tool_use block missing required 'name' field",
        ),
        (
            {"tools": [{"name": "f", "input_schema": "x"}]},
            (
                'invalid input_schema for tool "f": json: cannot unmarshal string into Go value of type '
                "api.ToolFunctionParameters"
            ),
        ),
        (
            {"max_tokens": "x"},
            "json: cannot unmarshal string into Go struct field MessagesRequest.max_tokens of type int",
        ),
    ],
)
def test_what_is_wrong_is_said(members: dict[str, Any], message: str) -> None:
    assert _complaint(**members) == message


@pytest.mark.parametrize(
    ("members", "think"),
    [
        ({}, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": None, "output_config": {"effort": "xhigh"}}, "high"),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}}, False),
        ({"output_config": {"effort": "max"}}, "max"),
        ({"output_config": {"effort": "huge"}}, None),
    ],
)
def test_thinking(members: dict[str, Any], think: bool | str | None) -> None:
    assert _decode(**members).think == think


@pytest.mark.parametrize(
    ("format_", "expected"),
    [
        ({"type": "json_schema", "schema": {"type": "object"}}, {"type": "object"}),
        ({"type": "json_schema"}, None),
        ({"type": "xml", "schema": {}}, None),
        ({"schema": {}}, None),
        (None, None),
    ],
)
def test_formats(format_: Any, expected: Any) -> None:
    assert _decode(output_config={"format": format_, "effort": "low"}).format == expected


def test_tools_without_a_schema_of_the_callers_are_left_out() -> None:
    tools = [
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
        {"type": "bash_20250124", "name": "bash"},
        {"name": "f", "description": "d", "input_schema": {"type": "object"}},
        {"type": "custom", "name": "g"},
    ]
    assert list(_decode(tools=tools).tools) == [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}},
        {"type": "function", "function": {"name": "g"}},
    ]
    deep = b'{"x":' * 300 + b"1" + b"}" * 300
    with pytest.raises(InvalidRequest, match="exceeded max depth"):
        decode_messages(b'{"model":"m","max_tokens":5,"tools":[{"name":"f","input_schema":' + deep + b"}]}", {})


def test_bodies_that_are_none() -> None:
    for body, message in (
        (b" ", "EOF"),
        (b"null", "model is required"),
        (b"[]", "json: cannot unmarshal array into Go value of type anthropic.MessagesRequest"),
    ):
        with pytest.raises(InvalidRequest) as raised:
            decode_messages(body, {})
        assert raised.value.message == message


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (501, "api_error"),
        (503, "overloaded_error"),
        (529, "overloaded_error"),
    ],
)
def test_errors_are_anthropics(status: int, kind: str) -> None:
    refusal = refuse(status, "no <x>", "checking")
    assert refusal.body.endswith(b"\n")
    error = json.loads(refusal.body)
    assert error.pop("request_id").startswith("req_")
    assert error == {"type": "error", "error": {"type": kind, "message": "no <x>"}}
    assert b"\\u003c" in refusal.body
    assert refusal.headers == {"content-type": "application/json"}
    early = refuse(status, "no", "decoding")
    assert not early.body.endswith(b"\n")
    assert early.headers == {"content-type": "application/json; charset=utf-8"}


def test_counting_wants_no_limit() -> None:
    call = decode_count(json.dumps({"model": "m", "messages": HI, "stream": True}).encode(), {})
    assert (call.render_only, call.stream, call.messages) == (True, False, (Message("user", "hi"),))
    answers = CountAnswers(call)
    assert answers.whole([Rendered("text", 12)]) == b'{"input_tokens":12}\n'
    with pytest.raises(InvalidRequest, match="messages is required"):
        decode_count(b'{"model":"m"}', {})


def test_an_estimate_is_never_nothing() -> None:
    assert estimated_tokens(_decode(messages=[{"role": "", "content": ""}])) == 1
    asked = [*HI, {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "ffff", "input": {}}]}]
    assert estimated_tokens(_decode(system="12345678", messages=asked)) == (8 + 6 + 9 + 4 + 2) // 4


@pytest.mark.parametrize(
    ("reason", "calls", "told"),
    [("stop", 0, "end_turn"), ("length", 0, "max_tokens"), ("length", 1, "tool_use"), ("load", 0, "stop_sequence")],
)
def test_why_it_stopped(reason: Any, calls: int, told: str) -> None:
    delta = Delta("x", tool_calls=(ToolCall("f", {}, "1"),) * calls)
    done = Done(reason, Usage(1, 1, 1, 1))
    assert json.loads(MessagesAnswers(_decode()).whole([delta, done]))["stop_reason"] == told
    answers = MessagesAnswers(_decode())
    body = answers.event(delta) + answers.event(done)
    assert b'"stop_reason":"%s"' % told.encode() in body


def test_an_empty_stream_has_no_blocks() -> None:
    body = MessagesAnswers(_decode()).event(DONE)
    names = [line.removeprefix(b"event: ") for line in body.splitlines() if line.startswith(b"event: ")]
    assert names == [b"message_start", b"message_delta", b"message_stop"]
