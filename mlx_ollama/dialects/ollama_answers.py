"""Answers of Ollama's own dialect: one object for each event (wire-spec section 2)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from mlx_ollama import gojson, gotime
from mlx_ollama.dialects.answers import NDJSON, REFUSAL_JSON, logprob
from mlx_ollama.types import Delta, Done, Event, Generation, Rendered, ToolCall, Usage


class Encoder(ABC):
    """The objects of one answer, a line each in a stream.

    Most of them are a piece of text in a frame that never changes: it is written once, only time and text are new.
    """

    stream_headers: Mapping[str, str] = {"content-type": NDJSON}
    whole_headers: Mapping[str, str] = {"content-type": REFUSAL_JSON}

    def __init__(self, call: Generation) -> None:
        self._head = b'{"model":' + gojson.dumps(call.model) + b',"created_at":"'

    def event(self, event: Event) -> bytes:
        """A line of a streamed answer; empty where the event has nothing to tell."""
        line = self._encode(event)
        return line + b"\n" if line else b""

    def broken(self, message: str) -> bytes:
        """The line that ends a stream which cannot go on (wire-spec 2.4)."""
        return gojson.dumps({"error": message}) + b"\n"

    def failed(self, message: str) -> bytes:
        return self.broken(message)

    def heartbeat(self) -> bytes:
        """A line of an answer that has nothing in it."""
        return self._framed(self._piece(b'""')) + b"\n"

    def is_plain(self, first: Event) -> bool:
        """Loads, unloads and renderings are one plain object (wire-spec 2)."""
        return isinstance(first, Rendered) or (isinstance(first, Done) and first.usage is None)

    def _encode(self, event: Event) -> bytes:
        if isinstance(event, Delta):
            if event.thinking or event.tool_calls or event.logprobs or not event.text:
                return self._uncommon(event)
            return self._framed(self._piece(gojson.dumps(event.text)))
        rest = self._end(Delta(""), event) if isinstance(event, Done) else self._rendered(event.prompt)
        return self._framed(gojson.dumps(rest)[1:])

    def whole(self, events: Sequence[Event]) -> bytes:
        """`stream: false`: the last object, with what all others had (wire-spec 2.3)."""
        last = events[-1]
        if not isinstance(last, Done):
            return self._encode(last)
        whole = Delta.joined([event for event in events if isinstance(event, Delta)])
        return self._framed(gojson.dumps(self._end(whole, last))[1:])

    def _framed(self, rest: bytes) -> bytes:
        return self._head + gotime.utc(gotime.now()).encode() + b'",' + rest

    @abstractmethod
    def _piece(self, text: bytes) -> bytes:
        """What follows the time where `text` (JSON) is a piece of the answer."""

    @abstractmethod
    def _uncommon(self, delta: Delta) -> bytes:
        """A piece with thinking, calls or logprobs, or without text."""

    @abstractmethod
    def _end(self, rest: Delta, done: Done) -> dict[str, Any]:
        """The members of the last object, with what was not streamed."""

    @abstractmethod
    def _rendered(self, prompt: str) -> dict[str, Any]:
        """The members of the answer to `_debug_render_only`."""


class GenerateEncoder(Encoder):
    """Answers of `/api/generate` (wire-spec 2.1). Tool calls ride on the last object only, without ids (10.3)."""

    def __init__(self, call: Generation) -> None:
        super().__init__(call)
        self._calls: tuple[ToolCall, ...] = ()

    def _piece(self, text: bytes) -> bytes:
        return b'"response":' + text + b',"done":false}'

    def _uncommon(self, delta: Delta) -> bytes:
        self._calls += delta.tool_calls
        members = {"response": delta.text} | _where_set(thinking=delta.thinking) | {"done": False}
        return self._framed(gojson.dumps(members | _logprobs(delta))[1:])

    def _end(self, rest: Delta, done: Done) -> dict[str, Any]:
        end: dict[str, Any] = {"response": rest.text} | _where_set(thinking=rest.thinking)
        end |= {"done": True, "done_reason": done.reason} | _where_set(context=list(done.context or ()))
        calls = [_tool_call(call) for call in self._calls + rest.tool_calls]
        return end | _metrics(done.usage) | _where_set(tool_calls=calls) | _logprobs(rest)

    def _rendered(self, prompt: str) -> dict[str, Any]:
        return {"response": "", "done": False, "_debug_info": {"rendered_template": prompt}}


class ChatEncoder(Encoder):
    """Answers of `/api/chat` (wire-spec 2.2)."""

    def _piece(self, text: bytes) -> bytes:
        return b'"message":{"role":"assistant","content":' + text + b'},"done":false}'

    def _uncommon(self, delta: Delta) -> bytes:
        if not (delta.text or delta.thinking or delta.tool_calls or delta.logprobs):
            return b""
        members = {"message": _message(delta), "done": False} | _logprobs(delta)
        return self._framed(gojson.dumps(members)[1:])

    def _end(self, rest: Delta, done: Done) -> dict[str, Any]:
        end = {"message": _message(rest), "done": True, "done_reason": done.reason}
        return end | _logprobs(rest) | _metrics(done.usage)

    def _rendered(self, prompt: str) -> dict[str, Any]:
        empty = {"role": "", "content": ""}
        return {"message": empty, "done": False, "_debug_info": {"rendered_template": prompt}}


def _message(delta: Delta) -> dict[str, Any]:
    calls = [{"id": call.id} | _tool_call(call) for call in delta.tool_calls]
    return {"role": "assistant", "content": delta.text} | _where_set(thinking=delta.thinking, tool_calls=calls)


def _tool_call(call: ToolCall) -> dict[str, Any]:
    return {"function": {"index": call.index, "name": call.name, "arguments": dict(call.arguments)}}


def _logprobs(delta: Delta) -> dict[str, Any]:
    return _where_set(logprobs=[logprob(entry) for entry in delta.logprobs])


def _where_set(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value}


def _metrics(usage: Usage | None) -> dict[str, int]:
    if usage is None:
        return {}
    return _where_set(
        total_duration=usage.total_ns,
        load_duration=usage.load_ns,
        prompt_eval_count=usage.prompt_tokens,
        prompt_eval_duration=usage.prompt_ns,
        eval_count=usage.eval_tokens,
        eval_duration=usage.eval_ns,
    )
