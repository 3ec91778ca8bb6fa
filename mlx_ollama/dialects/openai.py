"""OpenAI's dialect: bodies of `/v1/chat/completions` and `/v1/completions` (wire-spec 8.2, 8.3)."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from mlx_ollama import gojson
from mlx_ollama.dialects.gotypes import (
    Struct,
    anything,
    array_of,
    boolean,
    integer,
    mapping,
    number,
    object_of,
    string,
    unheeded,
)
from mlx_ollama.dialects.v1types import (
    ABOUT_THE_CALLER,
    STREAM_OPTIONS,
    arguments_of_text,
    ignored,
    image_of_url,
    role_of,
    think_of_effort,
)
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.types import Chat, Completion, Message, ToolCall

_FUNCTION = Struct("Function", {"name": string, "arguments": string})
_TOOL_CALL = Struct(
    "ToolCall", {"id": string, "index": integer, "type": string, "function": object_of(_FUNCTION, "struct")}
)
_MESSAGE = Struct(
    "Message",
    {
        "role": string,
        "content": anything,
        "reasoning": string,
        "tool_calls": array_of(object_of(_TOOL_CALL, "openai.ToolCall"), "[]openai.ToolCall", zero={}),
        "name": string,
        "tool_call_id": string,
    },
)
_STREAM_OPTIONS = Struct("StreamOptions", {**STREAM_OPTIONS, "include_usage": boolean})
_SCHEMA = Struct("JsonSchema", {"schema": anything, **dict.fromkeys(("name", "description", "strict"), anything)})
_FORMAT = Struct(
    "ResponseFormat",
    {
        "type": unheeded("text", "json_object", "json_schema", read=string),
        "json_schema": object_of(_SCHEMA, "openai.JsonSchema"),
    },
)
_REASONING = Struct("Reasoning", {"effort": string})
_COMMON = {
    "model": string,
    "stream": boolean,
    "stream_options": object_of(_STREAM_OPTIONS, "openai.StreamOptions"),
    "max_tokens": integer,
    "max_completion_tokens": integer,
    "seed": integer,
    "stop": anything,
    "n": unheeded(1),
    "logit_bias": unheeded({}),
    "_debug_render_only": boolean,
    **ABOUT_THE_CALLER,
}
_CHAT = Struct(
    "ChatCompletionRequest",
    {
        **_COMMON,
        "messages": array_of(object_of(_MESSAGE, "openai.Message"), "[]openai.Message", zero={}),
        "temperature": number("float64"),
        "top_p": number("float64"),
        "frequency_penalty": number("float64"),
        "presence_penalty": number("float64"),
        "response_format": object_of(_FORMAT, "openai.ResponseFormat"),
        "tools": array_of(mapping, "[]api.Tool", zero={}),
        "reasoning": object_of(_REASONING, "openai.Reasoning"),
        "reasoning_effort": string,
        "logprobs": boolean,
        "top_logprobs": integer,
        "tool_choice": anything,
        "parallel_tool_calls": unheeded(True),
        "modalities": unheeded(["text"]),
        "verbosity": unheeded("medium"),
    },
    package="openai",
    empty="EOF",
)
_COMPLETION = Struct(
    "CompletionRequest",
    {
        **_COMMON,
        "prompt": string,
        "suffix": string,
        "temperature": number("float32"),
        "top_p": number("float32"),
        "frequency_penalty": number("float32"),
        "presence_penalty": number("float32"),
        "logprobs": integer,
        "echo": unheeded(False),
        "best_of": unheeded(1),
    },
    package="openai",
    empty="EOF",
)


def decode_chat(body: bytes, headers: Mapping[str, str]) -> Chat:
    """`POST /v1/chat/completions` (wire-spec 8.2)."""
    members = _CHAT.read(body)
    if not members.get("messages"):
        raise InvalidRequest("[] is too short - 'messages'")
    messages = _messages(members["messages"])
    options = _options(members, stop=[text for text in _stops(members) if isinstance(text, str)])
    return Chat(
        **_common(members),
        ignored=ignored(members),
        messages=messages,
        tools=members.get("tools", ()),
        options=options | {"top_p": members.get("top_p", 1.0)},
        format=_format(members.get("response_format", {})),
        think=_think(members),
        logprobs=members.get("logprobs", False),
        top_logprobs=members.get("top_logprobs", 0),
    )


def decode_completion(body: bytes, headers: Mapping[str, str]) -> Completion:
    """`POST /v1/completions` (wire-spec 8.3). Its answers never have log-probabilities, so none are asked for."""
    members = _COMPLETION.read(body)
    stops = _stops(members)
    for stop in stops:
        if not isinstance(stop, str):
            raise InvalidRequest(f"invalid type for 'stop' field: {_go_type(stop)}")
    likelihoods = max(0, members.get("logprobs", 0))
    return Completion(
        **_common(members),
        ignored=members.ignored + (("logprobs",) if likelihoods else ()),
        prompt=members.get("prompt", ""),
        suffix=members.get("suffix", ""),
        options=_options(members, stop=stops) | {"top_p": members.get("top_p") or 1.0},
        top_logprobs=likelihoods,
    )


def _common(members: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": members.get("model", ""),
        "stream": members.get("stream", False),
        "include_usage": members.get("stream_options", {}).get("include_usage", False),
        "render_only": members.get("_debug_render_only", False),
    }


def _options(members: Mapping[str, Any], *, stop: Sequence[str]) -> dict[str, Any]:
    """What is sampled how. OpenAI's defaults stand above those of the Modelfile."""
    options = {name: members[name] for name in ("seed", "frequency_penalty", "presence_penalty") if name in members}
    # The reference passes over the newer name of the limit; clients that send only that one mean it.
    limit = members.get("max_completion_tokens", members.get("max_tokens"))
    if limit is not None:
        options["num_predict"] = limit
    if stop:
        options["stop"] = list(stop)
    return options | {"temperature": members.get("temperature", 1.0)}


def _stops(members: Mapping[str, Any]) -> list[Any]:
    stop = members.get("stop")
    if isinstance(stop, str):
        return [stop]
    return stop if isinstance(stop, list) else []


def _format(response_format: Mapping[str, Any]) -> Any:
    match response_format.get("type"):
        case "json_object":
            return "json"
        case "json_schema":
            return response_format.get("json_schema", {}).get("schema")
    return None


def _think(members: Mapping[str, Any]) -> bool | str | None:
    given = members["reasoning"].get("effort") if "reasoning" in members else members.get("reasoning_effort")
    return think_of_effort(given or "")


def _messages(given: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """The conversation. Each part of a message in parts becomes a message (wire-spec 8.2)."""
    names: dict[str, str] = {}
    messages: list[Message] = []
    for members in given:
        calls = tuple(_tool_call(call) for call in members.get("tool_calls", ()))
        messages += _turn(members, calls, names)
        names |= {call.id: call.name for call in calls if call.id}
    return tuple(messages)


def _turn(members: Mapping[str, Any], calls: tuple[ToolCall, ...], names: Mapping[str, str]) -> list[Message]:
    role, content = role_of(members.get("role", "")), members.get("content")
    call_id = members.get("tool_call_id", "")
    name = members.get("name") or names.get(call_id, "")
    shared = {"tool_name": name if role == "tool" else "", "tool_call_id": call_id}
    parts: list[dict[str, Any]] = [{}]
    if isinstance(content, str):
        parts = [{"content": content}]
    elif isinstance(content, list):
        parts = [_part(part) for part in content] or [{}] * bool(calls)
    elif content is not None or "tool_calls" not in members:
        raise InvalidRequest(f"invalid message content type: {_go_type(content)}")
    last = len(parts) - 1
    return [
        Message(
            role,
            **{"content": "", **part},
            thinking="" if at else members.get("reasoning", ""),
            tool_calls=calls if at == last else (),
            **shared,
        )
        for at, part in enumerate(parts)
    ]


def _part(part: Any) -> dict[str, Any]:
    """A part's text, or its image or sound, as members of a message."""
    if not isinstance(part, dict):
        raise InvalidRequest("invalid message format")
    match part:
        case {"type": "text", "text": str(text)}:
            return {"content": text}
        case {"type": "image_url", "image_url": str(url) | {"url": str(url)}}:
            return {"images": (image_of_url(url),)}
        case {"type": "input_audio"}:
            return {"audio": (_sound(part.get("input_audio")),)}
    raise InvalidRequest("invalid message format")


def _sound(audio: Any) -> bytes:
    if not isinstance(audio, dict):
        raise InvalidRequest("invalid input_audio format")
    if not isinstance(audio.get("data"), str) or not audio["data"]:
        raise InvalidRequest("invalid input_audio format: missing data")
    try:
        return base64.b64decode(audio["data"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("invalid input_audio format") from error


def _tool_call(members: Mapping[str, Any]) -> ToolCall:
    function = members.get("function", {})
    # No text is no JSON, to the reference; `/v1/responses` alone takes it for no arguments.
    arguments = arguments_of_text(function.get("arguments") or "-")
    return ToolCall(function.get("name", ""), arguments, members.get("id", ""), members.get("index", 0))


def _go_type(value: Any) -> str:
    """What Go calls the type of a decoded JSON value."""
    if value is None:
        return "<nil>"
    names = {"number": "float64", "object": "map[string]interface {}", "array": "[]interface {}"}
    kind = gojson.kind(value)
    return names.get(kind, kind)
