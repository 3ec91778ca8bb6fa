"""OpenAI's bodies as calls, and what its errors look like."""

import base64
import json
from typing import Any

import pytest

from mlx_ollama.dialects.openai import decode_chat, decode_completion
from mlx_ollama.dialects.openai_answers import ChatEncoder, CompletionEncoder
from mlx_ollama.dialects.openai_embeddings import Answers, decode
from mlx_ollama.dialects.openai_models import encode_model, encode_models
from mlx_ollama.dialects.v1types import refuse
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.types import Chat, Completion, Delta, Details, Embeddings, ListedModel, Message, ToolCall, Usage

HI = [{"role": "user", "content": "hi"}]
PIXEL = b"\x89PNG"
FIELD = "json: cannot unmarshal number into Go struct field ChatCompletionRequest"
URL = "data:image/png;base64," + base64.b64encode(PIXEL).decode()


def _chat(**members: Any) -> Chat:
    return decode_chat(json.dumps({"model": "m", "messages": HI, **members}).encode(), {})


def _completion(**members: Any) -> Completion:
    return decode_completion(json.dumps({"model": "m", "prompt": "hi", **members}).encode(), {})


def _complaint(**members: Any) -> str:
    with pytest.raises(InvalidRequest) as raised:
        _chat(**members)
    return raised.value.message


def test_defaults_are_openais() -> None:
    chat = _chat()
    assert chat.options == {"temperature": 1.0, "top_p": 1.0}
    assert (chat.stream, chat.think, chat.format, chat.include_usage) == (False, None, None, False)
    assert _completion(top_p=0).options == {"temperature": 1.0, "top_p": 1.0}


def test_options() -> None:
    given = {"seed": 7, "temperature": 0, "top_p": 0.5, "frequency_penalty": 0.25, "presence_penalty": -1}
    expected = {**given, "num_predict": 9, "stop": ["a"]}
    assert _chat(**given, max_tokens=9, stop="a").options == expected
    assert _completion(**given, max_tokens=9, stop=["a"]).options == expected
    assert _chat(stop=["a", 1, "b"]).options["stop"] == ["a", "b"]


@pytest.mark.parametrize("limits", [{"max_completion_tokens": 5}, {"max_tokens": 9, "max_completion_tokens": 5}])
def test_the_newer_limit_counts(limits: dict[str, int]) -> None:
    assert _chat(**limits).options["num_predict"] == 5
    assert _completion(**limits).options["num_predict"] == 5


@pytest.mark.parametrize(
    ("response_format", "expected"),
    [
        ({"type": "json_object"}, "json"),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "string"}}}, {"type": "string"}),
        ({"type": "json_schema", "json_schema": {"name": "n"}}, None),
        ({"type": "json_schema"}, None),
        ({"type": "text"}, None),
        (None, None),
    ],
)
def test_formats(response_format: Any, expected: Any) -> None:
    assert _chat(response_format=response_format).format == expected


@pytest.mark.parametrize(
    ("members", "think"),
    [
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "minimal"}, "low"),
        ({"reasoning_effort": "xhigh"}, "max"),
        ({"reasoning_effort": ""}, None),
        ({"reasoning": {"effort": "high"}, "reasoning_effort": "low"}, "high"),
        ({"reasoning": {}, "reasoning_effort": "low"}, None),
    ],
)
def test_effort(members: dict[str, Any], think: bool | str | None) -> None:
    assert _chat(**members).think == think


def test_parts_become_messages() -> None:
    parts: list[Any] = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": URL},
        {"type": "text", "text": "b"},
    ]
    parts.append({"type": "input_audio", "input_audio": {"data": "aGk="}})
    found = _chat(messages=[{"role": "User", "content": parts}]).messages
    assert found == (
        Message("user", "a"),
        Message("user", "", images=(PIXEL,)),
        Message("user", "b"),
        Message("user", "", audio=(b"hi",)),
    )
    assert _chat(messages=[{"role": "user", "content": []}]).messages == ()


def test_roles_are_those_that_templates_know() -> None:
    roles = ("Developer", "USER", "zebra")
    found = _chat(messages=[{"role": role, "content": "x"} for role in roles]).messages
    assert [message.role for message in found] == ["system", "user", "zebra"]


def test_calls_and_their_results() -> None:
    function = {"name": "f", "arguments": '{"b": 1, "a": 2.5}'}
    calls: list[Any] = [{"id": "call_1", "index": 3, "type": "function", "function": function}]
    talk = [
        *HI,
        {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": calls},
        {"role": "tool", "content": "r", "tool_call_id": "call_1"},
        {"role": "tool", "content": "r", "tool_call_id": "call_1", "name": "g"},
        {"role": "tool", "content": [{"type": "text", "text": "r"}], "tool_call_id": "other"},
    ]
    _, called, *results = _chat(messages=talk).messages
    assert called == Message(
        "assistant", "", thinking="hm", tool_calls=(ToolCall("f", {"b": 1, "a": 2.5}, "call_1", 3),)
    )
    assert list(called.tool_calls[0].arguments) == ["b", "a"]
    assert [result.tool_name for result in results] == ["f", "g", ""]
    assert [result.tool_call_id for result in results] == ["call_1", "call_1", "other"]


@pytest.mark.parametrize("arguments", ["", "[]", "1", '"x"', "{bad"])
def test_arguments_are_an_object(arguments: str) -> None:
    calls = [{"id": "a", "function": {"name": "f", "arguments": arguments}}]
    assert _complaint(messages=[{"role": "assistant", "tool_calls": calls}]) == "invalid tool call arguments"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({}, "invalid message content type: map[string]interface {}"),
        (True, "invalid message content type: bool"),
        (["a"], "invalid message format"),
        ([{"type": "text", "text": 1}], "invalid message format"),
        ([{"type": "image_url"}], "invalid message format"),
        ([{"type": "image_url", "image_url": "data:image/png;base64,!"}], "invalid image input"),
        ([{"type": "input_audio"}], "invalid input_audio format"),
    ],
)
def test_contents_that_are_none(content: Any, complaint: str) -> None:
    assert _complaint(messages=[{"role": "user", "content": content}]) == complaint


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ({"messages": []}, "[] is too short - 'messages'"),
        ({"stream_options": {"include_usage": 1}}, f"{FIELD}.stream_options.include_usage of type bool"),
        ({"messages": [{"role": 1}]}, f"{FIELD}.messages.role of type string"),
        ({"tools": 1}, f"{FIELD}.tools of type []api.Tool"),
    ],
)
def test_complaints(members: dict[str, Any], complaint: str) -> None:
    assert _complaint(**members) == complaint


def test_bodies_that_are_no_object() -> None:
    with pytest.raises(InvalidRequest, match=r"array into Go value of type openai\.CompletionRequest"):
        decode_completion(b"[]", {})
    with pytest.raises(InvalidRequest, match=r"^EOF$"):
        decode(b" ", {})


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (404, "not_found_error"), (500, "api_error"), (503, "api_error")],
)
def test_errors(status: int, kind: str) -> None:
    body = '{"error":{"message":"\\u003cno\\u003e","type":"' + kind + '","param":null,"code":null}}'
    early, late = refuse(status, "<no>", "decoding"), refuse(status, "<no>", "answering")
    assert (early.body.decode(), early.headers) == (body, {"content-type": "application/json; charset=utf-8"})
    assert (late.body.decode(), late.headers) == (body + "\n", {"content-type": "application/json"})
    assert refuse(403, "no", "checking").body == b'{"error":"no"}'


def test_thoughts_stand_in_front() -> None:
    encoder = ChatEncoder(_chat(stream=True))
    call = ToolCall("f", {"a": "<b>"}, "call_1")
    first, second = map(_choice, encoder.event(Delta("t", thinking="h", tool_calls=(call,))).split(b"\n\n")[:-1])
    assert first["delta"] == {"role": "assistant", "reasoning": "h"}
    assert list(second["delta"]) == ["content", "tool_calls"]
    assert second["delta"]["tool_calls"][0]["function"]["arguments"] == '{"a":"\\u003cb\\u003e"}'
    assert encoder.event(Delta("")) == b""


def _choice(frame: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(frame.removeprefix(b"data: "))["choices"][0]
    return found


@pytest.mark.parametrize("encoder", [ChatEncoder(_chat()), CompletionEncoder(_completion())])
def test_what_fails_after_nothing_but_heartbeats_is_told(encoder: ChatEncoder | CompletionEncoder) -> None:
    assert encoder.heartbeat() == b": keep-alive\n\n"
    assert json.loads(encoder.failed("gone").removeprefix(b"data: "))["error"]["message"] == "gone"


def test_embeddings() -> None:
    call = decode(b'{"model":"m","input":["a",""],"dimensions":3,"encoding_format":"BASE64"}', {})
    assert (call.inputs, call.dimensions, call.base64) == (("a", ""), 3, True)
    body = Answers(call).vectors(Embeddings(((0.5, 1e-7), (1.0, -2.0)), Usage(4, 0, 0, 0)))
    first, second = json.loads(body)["data"]
    assert base64.b64decode(first["embedding"])[:4] == b"\0\0\0\x3f"
    assert second["index"] == 1
    plain = Answers(decode(b'{"model":"m","input":"a"}', {})).vectors(Embeddings(((0.5, 1e-7, 1.0),)))
    assert b'"embedding":[0.5,1e-7,1],' in plain
    with pytest.raises(InvalidRequest, match=r"'encoding_format' = hex\. Supported values: "):
        decode(b'{"model":"m","input":"a","encoding_format":"hex"}', {})
    assert decode(b'{"input":[[1,2]]}', {}).inputs is None


def test_models() -> None:
    assert encode_models([]) == b'{"object":"list","data":null}\n'
    details = Details("gguf", "llama", ("llama",), "1B", "Q4_0")
    listed = ListedModel("me/tiny:1b", 1_700_000_000_999_999_999, 1, "d", details, ())
    entry = b'{"id":"me/tiny:1b","object":"model","created":1700000000,"owned_by":"me"}'
    assert encode_models([listed]) == b'{"object":"list","data":[' + entry + b"]}\n"
    assert callable(encode_model)
