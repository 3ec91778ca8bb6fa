"""`POST /v1/messages` and `/v1/messages/count_tokens`: requests and errors (wire-spec 8.8)."""

import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mlx_ollama import gojson
from mlx_ollama.dialects.answers import PLAIN_JSON, REFUSAL_JSON, Refusal, Stage
from mlx_ollama.dialects.anthropic_input import conversation, text_of
from mlx_ollama.dialects.gotypes import (
    Members,
    Struct,
    anything,
    array_of,
    boolean,
    integer,
    number,
    object_of,
    string,
    unheeded,
)
from mlx_ollama.dialects.sse import EVENT_STREAM
from mlx_ollama.dialects.v1types import ignored
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.types import Chat, Message

_MESSAGE = Struct("MessageParam", {"role": string, "content": anything})
_TOOL = Struct("Tool", {"type": string, "name": string, "description": string, "input_schema": anything})
_FORMAT = Struct("JSONOutputFormat", {"type": unheeded("json_schema", read=string), "schema": anything})
_OUTPUT = Struct("OutputConfig", {"effort": string, "format": object_of(_FORMAT, "anthropic.JSONOutputFormat")})
_REQUEST = Struct(
    "MessagesRequest",
    {
        "model": string,
        "max_tokens": integer,
        "messages": array_of(object_of(_MESSAGE, "anthropic.MessageParam"), "[]anthropic.MessageParam", zero={}),
        "system": anything,
        "stream": boolean,
        "temperature": number("float64"),
        "top_p": number("float64"),
        "top_k": integer,
        "stop_sequences": array_of(string, "[]string", zero=""),
        "tools": array_of(object_of(_TOOL, "anthropic.Tool"), "[]anthropic.Tool", zero={}),
        "thinking": object_of(Struct("ThinkingConfig", {"type": string}), "anthropic.ThinkingConfig"),
        "output_config": object_of(_OUTPUT, "anthropic.OutputConfig"),
        "tool_choice": anything,
        **dict.fromkeys(("cache_control", "metadata", "service_tier"), anything),
    },
    package="anthropic",
    empty="EOF",
)
_THINK = {"enabled": True, "disabled": False}
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "max"}
_OPTIONS = {
    "max_tokens": "num_predict",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "stop_sequences": "stop",
}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


def decode_messages(body: bytes, headers: Mapping[str, str]) -> Chat:
    """`POST /v1/messages`. Tools without a schema of the caller's are Anthropic's own, and left out.

    Raises:
        InvalidRequest: in the reference's words.
    """
    members = _REQUEST.read(body)
    _require_model(members)
    if members.get("max_tokens", 0) <= 0:
        raise InvalidRequest("max_tokens is required and must be positive")
    options = {name: members[key] for key, name in _OPTIONS.items() if key in members}
    return _chat(members, stream=members.get("stream", False), options=options)


def decode_count(body: bytes, headers: Mapping[str, str]) -> Chat:
    """`POST /v1/messages/count_tokens`: the same request, for the length of its prompt alone.

    Raises:
        InvalidRequest: in the words of `/v1/messages`.
    """
    members = _REQUEST.read(body)
    _require_model(members)
    return _chat(members, stream=False, render_only=True)


def refuse(status: int, message: str, stage: Stage) -> Refusal:
    """An error as Anthropic words it."""
    error = {"type": _TYPES.get(status, "api_error"), "message": message}
    body = gojson.dumps({"type": "error", "error": error, "request_id": f"req_{secrets.token_hex(12)}"})
    if stage == "decoding":
        return Refusal(body, {"content-type": REFUSAL_JSON})
    streamed = {"cache-control": EVENT_STREAM["cache-control"]} if stage == "answering" else {}
    return Refusal(body + b"\n", {**streamed, "content-type": PLAIN_JSON})


def _require_model(members: Mapping[str, Any]) -> None:
    if not members.get("model"):
        raise InvalidRequest("model is required")


def _chat(members: Members, **rest: Any) -> Chat:
    if not members.get("messages"):
        raise InvalidRequest("messages is required")
    system = text_of(members.get("system"))
    return Chat(
        model=members["model"],
        ignored=tuple(_ignored(members)),
        messages=(*((Message("system", system),) if system else ()), *conversation(members["messages"])),
        tools=list(_functions(members.get("tools", ()))),
        format=_format(members),
        think=_think(members),
        # Clients ask for thinking whatever the model (wire-spec 8.8).
        think_if_able=True,
        **rest,
    )


def _think(members: Mapping[str, Any]) -> bool | str | None:
    """The effort counts only where nothing is said about thinking; without both the model decides."""
    if "thinking" in members:
        return _THINK.get(members["thinking"].get("type", ""))
    return _EFFORTS.get(members.get("output_config", {}).get("effort", ""))


def _format(members: Mapping[str, Any]) -> Any:
    """The schema that an answer is held to; the reference passes over it, and clients parse what comes."""
    format_ = members.get("output_config", {}).get("format", {})
    return format_.get("schema") if "type" in format_ else None


def _ignored(members: Members) -> Iterator[str]:
    yield from ignored(members)
    yield from (f"tools.{tool['type']}" for tool in members.get("tools", ()) if _is_anthropics(tool))


def _is_anthropics(tool: Mapping[str, Any]) -> bool:
    return tool.get("input_schema") is None and tool.get("type", "custom") != "custom"


def _functions(tools: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for tool in tools:
        if _is_anthropics(tool):
            continue
        schema = tool.get("input_schema")
        if schema is not None and not isinstance(schema, Mapping):
            raise InvalidRequest(
                f'invalid input_schema for tool "{tool.get("name", "")}": json: cannot unmarshal '
                f"{gojson.kind(schema)} into Go value of type api.ToolFunctionParameters"
            )
        function = {"name": tool.get("name", ""), "description": tool.get("description"), "parameters": schema}
        given = {name: value for name, value in function.items() if value is not None}
        yield {"type": "function", "function": given}
