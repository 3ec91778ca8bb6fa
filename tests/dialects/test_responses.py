"""Requests and errors of `/v1/responses` (wire-spec 8.6)."""

import base64
import json
import time
from typing import Any

import pytest

from mlx_ollama.dialects.responses import decode_responses, refuse
from mlx_ollama.dialects.responses_answers import ResponsesAnswers, ResponsesChat
from mlx_ollama.dialects.responses_input import read_input
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.types import Delta, Done, Event, Message, ToolCall, Usage

IMAGE = "data:image/png;base64," + base64.b64encode(b"png").decode()
DONE = Done("stop", Usage(3, 1, 2, 1))


def _decode(**members: Any) -> ResponsesChat:
    return decode_responses(json.dumps({"model": "m", **members}).encode(), {})


def _complaint(**members: Any) -> str:
    with pytest.raises(InvalidRequest) as raised:
        _decode(**members)
    return raised.value.message


def _repeated(call: ResponsesChat) -> Any:
    """What an answer says of the request."""
    return json.loads(ResponsesAnswers(call).whole([DONE]))


def test_a_text_is_a_conversation() -> None:
    call = _decode(input="hi", instructions="be nice")
    assert call.messages == (Message("system", "be nice"), Message("user", "hi"))
    assert (call.stream, call.options, call.think, call.format) == (False, {"temperature": 1.0}, None, None)
    assert _decode(input="").messages == _decode().messages == ()


@pytest.mark.parametrize(
    ("first", "item"),
    [
        ({"role": "assistant", "content": "x"}, {"type": "function_call", "name": "f", "arguments": ""}),
        (
            {"type": "reasoning", "encrypted_content": "x" * 2_000_000},
            {"type": "reasoning", "encrypted_content": "a"},
        ),
    ],
)
def test_many_items_of_one_message_take_no_longer_than_they_are_long(first: Any, item: Any) -> None:
    began = time.process_time()
    (message,) = read_input([first, *[item] * 30_000, {"type": "function_call", "name": "g"}], "")
    assert (len(message.tool_calls), len(message.thinking)) in ((30_001, 0), (1, 2_030_000))
    assert [call.index for call in message.tool_calls] == list(range(len(message.tool_calls)))
    assert time.process_time() - began < 2


def test_items_become_turns() -> None:
    call = _decode(
        input=[
            {"role": "developer", "content": "rules"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
            {"type": "web_search_call", "id": "ws_1"},
            {"type": "reasoning", "encrypted_content": "hm", "summary": [{"type": "summary_text", "text": "no"}]},
            {
                "role": "assistant",
                "content": [{"type": "output_text", "text": "b"}, {"type": "output_text", "text": "c"}],
            },
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": '{"x":1}'},
            {"type": "function_call", "call_id": "2", "name": "g", "namespace": "ns", "arguments": ""},
            {"type": "function_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "two"}]},
            {"type": "function_call_output", "call_id": "1", "output": "one"},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}]},
            {"type": "function_call", "call_id": "3", "name": "f", "arguments": "{}"},
            {"role": "user", "content": [{"type": "input_image", "image_url": IMAGE}]},
        ]
    )
    calls = (ToolCall("f", {"x": 1}, "1", 0), ToolCall("ns.g", {}, "2", 1))
    assert call.messages == (
        Message("system", "rules"),
        Message("user", "a"),
        Message("assistant", "bc", "hm", tool_calls=calls),
        Message("tool", "two", tool_name="ns.g", tool_call_id="2"),
        Message("tool", "one", tool_name="f", tool_call_id="1"),
        Message("assistant", "", "so", tool_calls=(ToolCall("f", {}, "3"),)),
        Message("user", "", images=(b"png",)),
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (5, "input must be a string or array: json: cannot unmarshal number into Go value of type []json.RawMessage"),
        ([{"type": "zzz"}], 'input[0]: unknown input item type: "zzz"'),
        (
            [{"type": 5}],
            "input[0]: json: cannot unmarshal number into Go struct field .type of type string",
        ),
        (["x"], "input[0]: input item missing required 'type' field"),
        ([{"role": "user"}, {}], "input[1]: input item missing required 'type' field"),
        ([{"role": "user", "content": [{"type": "zzz"}]}], "input[0]: content[0]: unknown content type: zzz"),
        ([{"role": "user", "content": [5]}], "input[0]: content[0]: unknown content type: "),
        ([{"role": "user", "content": [{"type": "input_file"}]}], "file inputs are not currently supported"),
        (
            [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]}],
            "image URLs are not currently supported, please use base64 encoded data instead",
        ),
        ([{"role": "user", "content": [{"type": "input_image", "image_url": "data:x"}]}], "invalid image input"),
        ([{"role": "user", "content": [{"type": "input_image"}]}], "invalid image input"),
        ([{"type": "function_call", "name": "f", "arguments": "[]"}], "invalid tool call arguments"),
        ([{"type": "function_call", "name": "f", "arguments": "{"}], "invalid tool call arguments"),
    ],
)
def test_what_is_wrong_with_items_is_said(given: Any, message: str) -> None:
    assert _complaint(input=given) == message


@pytest.mark.parametrize(
    ("effort", "think"),
    [("", None), (None, None), ("none", False), ("minimal", "low"), ("medium", "medium"), ("xhigh", "max")],
)
def test_efforts(effort: str | None, think: bool | str | None) -> None:
    assert _decode(reasoning={"effort": effort}).think == think


def test_options_and_formats() -> None:
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    layout = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}
    call = _decode(max_output_tokens=9, temperature=0, top_p=0.5, text={"format": layout}, stream=True)
    assert call.options == {"temperature": 0, "top_p": 0.5, "num_predict": 9}
    assert (call.format, call.stream) == (schema, True)
    assert _repeated(call)["text"] == {"format": layout}
    assert _decode(text={"format": {"type": "json_object"}}).format == "json"
    assert _decode(text={"format": {"type": "text"}}).format is None
    assert _decode(tools=None, text=None, reasoning=None).tools == []


def test_what_is_repeated_was_written_while_decoding() -> None:
    parameters = {"type": "object", "enum": [0.5] * 300_000}
    call = _decode(input="hi", stream=True, tools=[{"type": "function", "name": "<f>", "parameters": parameters}])
    answers = ResponsesAnswers(call)
    began = time.process_time()
    frames = answers.event(Delta("x")) + answers.event(DONE)
    assert time.process_time() - began < 0.3
    (repeated,) = {
        frame.partition(b'"tools":')[2].partition(b',"top_logprobs"')[0] for frame in frames.split(b"\n\n")
    } - {b""}
    assert repeated.startswith(b'[{"description":null,"name":"\\u003cf\\u003e","parameters":{"enum":[0.5,0.5,')
    assert frames.count(b'"tools":') == 3


def test_only_functions_reach_the_model() -> None:
    function = {"type": "function", "name": "f", "description": "d", "strict": True, "parameters": {"type": "object"}}
    inner = {"type": "namespace", "name": "ns", "tools": [{"type": "function", "name": "g"}, {"type": "custom"}]}
    others = [{"type": "custom", "name": "p", "format": {"type": "text"}}, {"type": "web_search"}, {"type": "mcp"}, {}]
    call = _decode(tools=[*others, function, inner])
    assert list(call.tools) == [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}},
        {"type": "function", "function": {"name": "ns.g"}},
    ]
    assert _repeated(call)["tools"] == [
        function,
        {"type": "function", "name": "ns.g", "description": None, "strict": None, "parameters": None},
    ]


def test_bodies_that_are_none() -> None:
    for body, message in (
        (b"", "EOF"),
        (b"{bad", "invalid character 'b' looking for beginning of object key string"),
        (b"[]", "json: cannot unmarshal array into Go value of type openai.ResponsesRequest"),
        (b'{"top_p":"x"}', "json: cannot unmarshal string into Go struct field ResponsesRequest.top_p of type float64"),
    ):
        with pytest.raises(InvalidRequest) as raised:
            decode_responses(body, {})
        assert raised.value.message == message
    assert decode_responses(b"null", {}).model == ""


def test_schemas_without_a_floor_are_refused() -> None:
    deep = b'{"type":' * 300 + b"1" + b"}" * 300
    for body in (
        b'{"tools":[{"type":"function","name":"f","parameters":' + deep + b"}]}",
        b'{"text":{"format":{"type":"json_schema","schema":' + deep + b"}}}",
        b'{"input":[{"type":"function_call_output","output":' + deep + b"}]}",
    ):
        with pytest.raises(InvalidRequest, match="exceeded max depth"):
            decode_responses(body, {})


def test_errors_are_openais() -> None:
    refusal = refuse(400, "no", "decoding")
    assert refusal.body == b'{"error":{"message":"no","type":"invalid_request_error","param":null,"code":null}}'
    assert refusal.headers == {"content-type": "application/json; charset=utf-8"}
    late = refuse(500, "no", "checking")
    assert late.body == b'{"error":{"message":"no","type":"api_error","param":null,"code":null}}\n'
    assert late.headers == {"content-type": "application/json"}
    assert refuse(500, "no", "answering").headers["cache-control"] == "no-cache"
    assert refuse(403, "off", "checking").body == b'{"error":"off"}'


def _stream(*events: Event) -> list[dict[str, Any]]:
    answers = ResponsesAnswers(_decode(input="hi"))
    body = b"".join(answers.event(event) for event in events)
    return [json.loads(frame.partition(b"data: ")[2]) for frame in body.split(b"\n\n") if frame]


def _output(*events: Event) -> list[dict[str, Any]]:
    output: list[dict[str, Any]] = _stream(*events)[-1]["response"]["output"]
    return output


def test_an_empty_answer_is_an_empty_message() -> None:
    (message,) = _output(DONE)
    assert message["content"][0]["text"] == ""
    assert [item["type"] for item in _output(Delta("", thinking="hm"), DONE)] == ["reasoning", "message"]
    whole = json.loads(ResponsesAnswers(_decode(input="hi")).whole([DONE]))
    assert [item["type"] for item in whole["output"]] == ["message"]


def test_several_calls_have_places_of_their_own() -> None:
    calls = tuple(ToolCall("f", {"at": at}, f"call_{at}", at) for at in range(2))
    rows = _stream(Delta("", tool_calls=calls), Delta("late"), DONE)
    added = [(row["output_index"], row["item"]["id"]) for row in rows if row["type"] == "response.output_item.added"]
    assert [index for index, _ in added] == [0, 1]
    assert len({id_ for _, id_ in added}) == 2
    assert [item["type"] for item in rows[-1]["response"]["output"]] == ["function_call", "function_call"]


def test_thinking_after_text_is_kept() -> None:
    output = _output(Delta("a"), Delta("", thinking="hm"), Delta("b"), DONE)
    assert [item["type"] for item in output] == ["message", "reasoning", "message"]
