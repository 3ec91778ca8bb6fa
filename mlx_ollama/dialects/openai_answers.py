"""Answers of OpenAI's dialect: chunks as server-sent events, or one object (wire-spec 8.2, 8.3)."""

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from mlx_ollama import gojson
from mlx_ollama.dialects.answers import PLAIN_JSON, SSE, SSE_COMMENT, logprob
from mlx_ollama.dialects.v1types import error_object
from mlx_ollama.types import Delta, Done, Event, Generation, Rendered, ToolCall, Usage

FINGERPRINT = "fp_ollama"
DONE = b"data: [DONE]\n\n"
IDS = 999
"""The reference's ids are numbers below this; they tell apart what one client has open, no more."""

_random = random.SystemRandom()


class Encoder(ABC):
    """One answer. All its chunks have one id and one time."""

    stream_headers: Mapping[str, str] = {"content-type": SSE}
    whole_headers: Mapping[str, str] = {"content-type": PLAIN_JSON}

    _prefix: str
    _object: str

    def __init__(self, call: Generation) -> None:
        self._call = call
        self._id = f"{self._prefix}-{_random.randrange(IDS)}"
        self._created = int(time.time())
        self._has_begun = False

    def event(self, event: Event) -> bytes:
        """The chunks that one event comes to, together."""
        if isinstance(event, Delta):
            chunks = self._chunks(event)
            self._has_begun = self._has_begun or bool(chunks)
            return chunks
        if isinstance(event, Done):
            return self._last_chunks(event) + DONE
        return _framed(self._whole([event]))

    def failed(self, message: str) -> bytes:
        """The error in the form that OpenAI's own clients look for in a stream."""
        return _framed(error_object(message, "api_error"))

    def heartbeat(self) -> bytes:
        return SSE_COMMENT

    def is_plain(self, first: Event) -> bool:
        """Renderings are one plain object (wire-spec 2)."""
        return isinstance(first, Rendered)

    def whole(self, events: Sequence[Event]) -> bytes:
        return gojson.dumps(self._whole(events)) + b"\n"

    def _whole(self, events: Sequence[Event]) -> dict[str, Any]:
        last = events[-1]
        pieces = Delta.joined([event for event in events if isinstance(event, Delta)])
        done = last if isinstance(last, Done) else None
        members = {
            "id": self._id,
            "object": self._object,
            "created": self._created,
            "model": self._call.model,
            "system_fingerprint": FINGERPRINT,
            "choices": [self._choice(pieces, done)],
            "usage": usage_members(done.usage if done else None),
        }
        if isinstance(last, Rendered):
            members["_debug_info"] = {"rendered_template": last.prompt}
        return members

    @abstractmethod
    def _chunks(self, delta: Delta) -> bytes:
        """A piece of the answer."""

    @abstractmethod
    def _last_chunks(self, done: Done) -> bytes:
        """How the answer ended, and its counts where they are asked for."""

    @abstractmethod
    def broken(self, message: str) -> bytes:
        """The end of a stream that cannot go on; the reference does not say why (wire-spec 8.1)."""

    @abstractmethod
    def _choice(self, whole: Delta, done: Done | None) -> dict[str, Any]:
        """The whole answer; `done` is None where there is only a rendered prompt."""


class ChatEncoder(Encoder):
    """Answers of `/v1/chat/completions` (wire-spec 8.2)."""

    _prefix = "chatcmpl"
    _object = "chat.completion"

    def __init__(self, call: Generation) -> None:
        super().__init__(call)
        self._head = self._head_of(call.model)
        self._has_called = False

    def _chunks(self, delta: Delta) -> bytes:
        """Mostly a piece of text: it is written into a frame that never changes."""
        if delta.thinking or delta.tool_calls or delta.logprobs or not (delta.text and self._has_begun):
            return self._uncommon(delta)
        return self._chunk(b'{"content":' + gojson.dumps(delta.text) + b"}")

    def _uncommon(self, delta: Delta) -> bytes:
        """The first chunk has the role; thoughts stand in front of what comes with them, in a chunk of their own."""
        if not (delta.text or delta.thinking or delta.tool_calls or delta.logprobs):
            return b""
        self._has_called = self._has_called or bool(delta.tool_calls)
        role = {} if self._has_begun else {"role": "assistant"}
        thoughts, rest = {"reasoning": delta.thinking}, {"content": delta.text} | _calls(delta.tool_calls)
        if not delta.thinking:
            deltas = [role | rest]
        elif delta.text or delta.tool_calls:
            deltas = [role | thoughts, rest]
        else:
            deltas = [role | rest | thoughts]
        likelihoods = gojson.dumps(_logprobs(delta))[1:-1]
        *first, last = map(gojson.dumps, deltas)
        return b"".join(map(self._chunk, first)) + self._chunk(last, likelihoods)

    def _last_chunks(self, done: Done) -> bytes:
        opening = b"" if self._has_begun else self._chunk(b'{"role":"assistant","content":""}')
        reason = gojson.dumps(_reason(done, has_called=self._has_called))
        ending = self._head + b'{},"finish_reason":' + reason + b"}]}\n\n"
        return opening + ending + (self._usage(done) if self._call.include_usage else b"")

    def broken(self, message: str) -> bytes:
        return self._head_of("") + b'{"content":""},"finish_reason":null}]}\n\n'

    def _choice(self, whole: Delta, done: Done | None) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant" if done else "", "content": whole.text}
        if whole.thinking:
            message["reasoning"] = whole.thinking
        reason = _reason(done, has_called=bool(whole.tool_calls)) if done else None
        choice = {"index": 0, "message": message | _calls(whole.tool_calls), "finish_reason": reason}
        return choice | _logprobs(whole)

    def _chunk(self, delta: bytes, likelihoods: bytes = b"") -> bytes:
        comma = b"," if likelihoods else b""
        return self._head + delta + b',"finish_reason":null' + comma + likelihoods + b"}]}\n\n"

    def _head_of(self, model: str) -> bytes:
        """A chunk of one choice, up to its delta."""
        return b"data: " + gojson.dumps(self._members(model))[:-1] + b',"choices":[{"index":0,"delta":'

    def _usage(self, done: Done) -> bytes:
        return _framed(self._members(self._call.model) | {"choices": [], "usage": usage_members(done.usage)})

    def _members(self, model: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }


class CompletionEncoder(Encoder):
    """Answers of `/v1/completions` (wire-spec 8.3), which have no place for thoughts, calls and likelihoods."""

    _prefix = "cmpl"
    _object = "text_completion"

    def _chunks(self, delta: Delta) -> bytes:
        return self._chunk([{"text": delta.text, "index": 0, "finish_reason": None}], None)

    def _last_chunks(self, done: Done) -> bytes:
        ending = self._chunk([{"text": "", "index": 0, "finish_reason": done.reason}], None)
        return ending + (self._chunk([], done.usage) if self._call.include_usage else b"")

    def broken(self, message: str) -> bytes:
        return b""

    def _choice(self, whole: Delta, done: Done | None) -> dict[str, Any]:
        return {"text": whole.text, "index": 0, "finish_reason": done.reason if done else None}

    def _chunk(self, choices: Sequence[Mapping[str, Any]], usage: Usage | None) -> bytes:
        members = {
            "id": self._id,
            "object": self._object,
            "created": self._created,
            "choices": choices,
            "model": self._call.model,
            "system_fingerprint": FINGERPRINT,
        }
        return _framed(members | ({"usage": usage_members(usage)} if self._call.include_usage else {}))


def usage_members(usage: Usage | None) -> dict[str, int]:
    """Counts of tokens, zero where nothing was generated."""
    prompt, answer = (usage.prompt_tokens, usage.eval_tokens) if usage else (0, 0)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _framed(members: Mapping[str, Any]) -> bytes:
    return b"data: " + gojson.dumps(members) + b"\n\n"


def _reason(done: Done, *, has_called: bool) -> str:
    return "tool_calls" if has_called and done.reason == "stop" else done.reason


def _calls(calls: Sequence[ToolCall]) -> dict[str, Any]:
    return {"tool_calls": [_tool_call(call) for call in calls]} if calls else {}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    """Arguments are JSON within a string, with Go's escapes twice over."""
    function = {"name": call.name, "arguments": gojson.dumps(dict(call.arguments)).decode()}
    return {"id": call.id, "index": call.index, "type": "function", "function": function}


def _logprobs(delta: Delta) -> dict[str, Any]:
    return {"logprobs": {"content": [logprob(entry) for entry in delta.logprobs]}} if delta.logprobs else {}
