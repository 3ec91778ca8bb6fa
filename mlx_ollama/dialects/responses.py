"""`POST /v1/responses`: requests and errors (wire-spec 8.6)."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from mlx_ollama import gojson
from mlx_ollama.dialects import v1types
from mlx_ollama.dialects.answers import Refusal, Stage
from mlx_ollama.dialects.gotypes import (
    Members,
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
from mlx_ollama.dialects.responses_answers import ResponsesChat
from mlx_ollama.dialects.responses_input import joined_name, read_input
from mlx_ollama.dialects.sse import EVENT_STREAM
from mlx_ollama.dialects.v1types import ABOUT_THE_CALLER, STREAM_OPTIONS, ignored, think_of_effort
from mlx_ollama.types import Message

_REASONING = Struct("ResponsesReasoning", {"effort": string, "summary": string})
_STREAM_OPTIONS = Struct("StreamOptions", STREAM_OPTIONS)
_FORMAT = Struct(
    "ResponsesTextFormat",
    {"type": string, "name": string, "description": string, "schema": anything, "strict": boolean},
)
_TEXT = Struct(
    "ResponsesText", {"format": object_of(_FORMAT, "openai.ResponsesTextFormat"), "verbosity": unheeded("medium")}
)
_FUNCTION = {"type": string, "name": string, "description": string, "strict": boolean, "parameters": mapping}
_MEMBER = Struct("ResponsesTool", _FUNCTION)
_TOOL = Struct(
    "ResponsesTool",
    {**_FUNCTION, "tools": array_of(object_of(_MEMBER, "openai.ResponsesTool"), "[]openai.ResponsesTool", zero={})},
)
_REQUEST = Struct(
    "ResponsesRequest",
    {
        "model": string,
        "input": read_input,
        "instructions": string,
        "max_output_tokens": integer,
        "reasoning": object_of(_REASONING, "openai.ResponsesReasoning"),
        "temperature": number("float64"),
        "top_p": number("float64"),
        "text": object_of(_TEXT, "openai.ResponsesText"),
        "tools": array_of(object_of(_TOOL, "openai.ResponsesTool"), "[]openai.ResponsesTool", zero={}),
        "stream": boolean,
        "truncation": string,
        "background": boolean,
        "include": unheeded([], ["reasoning.encrypted_content"]),
        "parallel_tool_calls": unheeded(True),
        "stream_options": object_of(_STREAM_OPTIONS, "openai.StreamOptions"),
        "tool_choice": anything,
        "top_logprobs": unheeded(0),
        **ABOUT_THE_CALLER,
    },
    package="openai",
    empty="EOF",
)
_TEMPERATURE = 1.0
"""Where the request names none; it overrides the model's own, as in the reference."""


def decode_responses(body: bytes, headers: Mapping[str, str]) -> ResponsesChat:
    """`POST /v1/responses`. Tools that are no functions are left out: here nobody runs them.

    Raises:
        InvalidRequest: in the reference's words.
    """
    members = _REQUEST.read(body)
    instructions = members.get("instructions", "")
    tools = list(_functions(members.get("tools", ())))
    layout = members.get("text", {}).get("format", {})
    return ResponsesChat(
        model=members.get("model", ""),
        ignored=tuple(_ignored(members)),
        messages=(*((Message("system", instructions),) if instructions else ()), *members.get("input", ())),
        tools=[_as_tool(tool) for tool in tools],
        stream=members.get("stream", False),
        options=_options(members),
        format=_format(layout),
        think=think_of_effort(members.get("reasoning", {}).get("effort", "")),
        echo=_written(_echo(members, [_as_function(tool) for tool in tools], layout), members.get("stream", False)),
    )


def refuse(status: int, message: str, stage: Stage) -> Refusal:
    """An error as OpenAI words it; one in the place of a stream has the stream's word on caches, too."""
    refusal = v1types.refuse(status, message, stage)
    if stage != "answering":
        return refusal
    return Refusal(refusal.body, {"cache-control": EVENT_STREAM["cache-control"], **refusal.headers})


def _functions(tools: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The functions among tools, those of a namespace under their joined names."""
    for tool in tools:
        is_namespace = tool.get("type") == "namespace"
        for member in tool.get("tools", ()) if is_namespace else (tool,):
            if member.get("type") == "function":
                name = joined_name(tool.get("name", "") if is_namespace else "", member.get("name", ""))
                yield {**member, "name": name}


def _ignored(members: Members) -> Iterator[str]:
    yield from ignored(members)
    if members.get("background"):
        # The answer repeats it, and comes at once all the same.
        yield "background"
    for tool in members.get("tools", ()):
        if tool.get("type") not in ("function", "namespace"):
            yield f"tools.{tool.get('type', '')}"


def _as_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The tool as models see it."""
    given = {name: tool[name] for name in ("name", "description", "parameters") if name in tool}
    return {"type": "function", "function": given}


def _as_function(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The tool as the answer repeats it; its schema is a map in the reference, hence sorted."""
    members = {name: tool.get(name) for name in ("name", "description", "strict")}
    return {"type": "function", **members, "parameters": gojson.in_key_order(tool.get("parameters"))}


def _options(members: Mapping[str, Any]) -> dict[str, Any]:
    options = {"temperature": members.get("temperature", _TEMPERATURE)}
    if "top_p" in members:
        options["top_p"] = members["top_p"]
    if "max_output_tokens" in members:
        options["num_predict"] = members["max_output_tokens"]
    return options


def _format(layout: Mapping[str, Any]) -> Any:
    """JSON of any shape is what clients mean by `json_object`, which the reference passes over."""
    if layout.get("type") == "json_schema":
        return layout.get("schema")
    return "json" if layout.get("type") == "json_object" else None


def _written(echo: Mapping[str, Any], is_streamed: bool) -> dict[str, orjson.Fragment]:
    """The members as JSON; in events every object is a map in the reference, hence sorted.

    Here, since large bodies are decoded in a thread, and answers are written where everybody waits.
    """
    told = {name: gojson.in_key_order(value) if is_streamed else value for name, value in echo.items()}
    return {name: orjson.Fragment(gojson.dumps(value)) for name, value in told.items()}


def _echo(members: Mapping[str, Any], functions: list[dict[str, Any]], layout: Mapping[str, Any]) -> dict[str, Any]:
    """What the answer repeats of the request (wire-spec 8.6)."""
    reasoning = members.get("reasoning")
    return {
        "instructions": members.get("instructions") or None,
        "tools": functions,
        "truncation": members.get("truncation") or "disabled",
        "text": {"format": {"type": "text"} | {name: layout[name] for name in _FORMAT.fields if name in layout}},
        "top_p": members.get("top_p", 1),
        "temperature": members.get("temperature", _TEMPERATURE),
        "reasoning": None
        if reasoning is None
        else {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "max_output_tokens": members.get("max_output_tokens"),
        "background": members.get("background", False),
    }
