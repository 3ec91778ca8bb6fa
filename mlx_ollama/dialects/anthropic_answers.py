"""Answers of `/v1/messages`: one object, or the events of its blocks (wire-spec 8.8)."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlx_ollama import gojson
from mlx_ollama.dialects.answers import PLAIN_JSON
from mlx_ollama.dialects.sse import NamedEvents, named_event
from mlx_ollama.types import Chat, Delta, Done, Event, Message, Rendered, ToolCall, Usage

_REASONS = {"stop": "end_turn", "length": "max_tokens"}
_BYTES_PER_TOKEN = 4
_NO_USAGE = Usage(0, 0, 0, 0)
_DELTAS = {"thinking": "thinking_delta", "text": "text_delta"}


class MessagesAnswers(NamedEvents):
    """The answer to one request."""

    def __init__(self, call: Chat) -> None:
        self._call = call
        self._begun = False
        self._blocks = 0
        self._growing = ""
        self._has_calls = False

    def event(self, event: Event) -> bytes:
        return b"".join(_frame(*told) for told in self._events(event))

    def failed(self, message: str) -> bytes:
        return _frame("error", {"error": {"type": "api_error", "message": message}})

    def whole(self, events: Sequence[Event]) -> bytes:
        answer = Delta.joined([event for event in events if isinstance(event, Delta)])
        done = next(event for event in reversed(events) if isinstance(event, Done))
        blocks: list[dict[str, Any]] = [{"type": kind, kind: text} for kind, text in _texts(answer)]
        blocks += [{**_tool_use(call), "input": dict(call.arguments)} for call in answer.tool_calls]
        end = {"stop_reason": _reason(done, has_calls=bool(answer.tool_calls)), "usage": _usage(done.usage)}
        # Go's nil slice: nothing produced is no empty array.
        return gojson.dumps({**self._head(), "content": blocks or None, **end}) + b"\n"

    def _events(self, event: Event) -> Iterator[tuple[str, dict[str, Any]]]:
        if not self._begun:
            self._begun = True
            usage = {"input_tokens": estimated_tokens(self._call), "output_tokens": 0}
            yield "message_start", {"message": {**self._head(), "content": [], "usage": usage}}
        if isinstance(event, Delta):
            for kind, text in _texts(event):
                yield from self._grow(kind, text)
            for call in event.tool_calls:
                yield from self._use(call)
        elif isinstance(event, Done):
            yield from self._close()
            reason = _reason(event, has_calls=self._has_calls)
            yield "message_delta", {"delta": {"stop_reason": reason}, "usage": _usage(event.usage)}
            yield "message_stop", {}

    def _grow(self, kind: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if self._growing != kind:
            yield from self._close()
            yield self._open({"type": kind, kind: ""})
            self._growing = kind
        yield self._delta({"type": _DELTAS[kind], kind: text})

    def _use(self, call: ToolCall) -> Iterator[tuple[str, dict[str, Any]]]:
        """A call comes in one piece."""
        yield from self._close()
        self._has_calls = True
        yield self._open({**_tool_use(call), "input": {}})
        self._growing = "tool_use"
        yield self._delta({"type": "input_json_delta", "partial_json": gojson.dumps(dict(call.arguments)).decode()})
        yield from self._close()

    def _open(self, block: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return "content_block_start", {"index": self._blocks, "content_block": block}

    def _delta(self, delta: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return "content_block_delta", {"index": self._blocks, "delta": delta}

    def _close(self) -> Iterator[tuple[str, dict[str, Any]]]:
        if self._growing:
            yield "content_block_stop", {"index": self._blocks}
            self._blocks += 1
            self._growing = ""

    def _head(self) -> dict[str, Any]:
        id_ = f"msg_{secrets.token_hex(12)}"
        return {"id": id_, "type": "message", "role": "assistant", "model": self._call.model}


class CountAnswers:
    """Answers of `/v1/messages/count_tokens`, which are never streamed."""

    whole_headers: Mapping[str, str] = {"content-type": PLAIN_JSON}

    def __init__(self, call: Chat) -> None: ...

    def whole(self, events: Sequence[Event]) -> bytes:
        tokens = sum(event.tokens for event in events if isinstance(event, Rendered))
        return gojson.dumps({"input_tokens": tokens}) + b"\n"


def estimated_tokens(call: Chat) -> int:
    """What a stream says of its prompt before anybody has read it: a quarter of the bytes; its end has the count."""
    system = [message for message in call.messages if message.role == "system"]
    spoken = [message for message in call.messages if message.role != "system"]
    size = sum(len(message.content.encode()) for message in system) + sum(map(_size, spoken))
    for tool in call.tools:
        function = tool["function"]
        schema = gojson.dumps(function["parameters"]) if "parameters" in function else b""
        size += len(function["name"].encode()) + len(function.get("description", "").encode()) + len(schema)
    return max(1, size // _BYTES_PER_TOKEN)


def _size(message: Message) -> int:
    calls = b"".join(call.name.encode() + gojson.dumps(dict(call.arguments)) for call in message.tool_calls)
    return len((message.role + message.content + message.thinking).encode()) + len(calls)


def _texts(delta: Delta) -> Iterator[tuple[str, str]]:
    if delta.thinking:
        yield "thinking", delta.thinking
    if delta.text:
        yield "text", delta.text


def _tool_use(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name}


def _reason(done: Done, *, has_calls: bool) -> str:
    if has_calls:
        return "tool_use"
    return _REASONS.get(done.reason, "stop_sequence")


def _usage(usage: Usage | None) -> dict[str, int]:
    counted = usage or _NO_USAGE
    return {"input_tokens": counted.prompt_tokens, "output_tokens": counted.eval_tokens}


def _frame(name: str, members: dict[str, Any]) -> bytes:
    return named_event(name, gojson.dumps({"type": name, **members}))
