"""Answers of `/v1/responses`: one object, or the events in which it grows (wire-spec 8.6)."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from mlx_ollama import gojson, gotime
from mlx_ollama.dialects.responses_items import (
    GrowingMessage,
    GrowingReasoning,
    Told,
    call_events,
    call_item,
    message_item,
    reasoning_item,
)
from mlx_ollama.dialects.sse import NamedEvents, named_event
from mlx_ollama.dialects.v1types import error_object
from mlx_ollama.types import Chat, Delta, Done, Event, ToolCall, Usage

_LARGEST_NUMBER = 999_999
_NS = 1_000_000_000
_NO_USAGE = Usage(0, 0, 0, 0)
_random = random.SystemRandom()


@dataclass(frozen=True, kw_only=True)
class ResponsesChat(Chat):
    """A chat with what its answer repeats of the request, already written: a stream says it three times."""

    echo: Mapping[str, orjson.Fragment] = field(default_factory=dict)


class ResponsesAnswers(NamedEvents):
    """The answer to one request."""

    def __init__(self, call: ResponsesChat) -> None:
        self._model, self._echo = call.model, call.echo
        self._id = f"resp_{_number()}"
        self._created = gotime.now() // _NS
        self._stream = _Stream(self._object)

    def event(self, event: Event) -> bytes:
        return b"".join(self._stream.frames(event))

    def failed(self, message: str) -> bytes:
        """The error twice: OpenAI's clients look for the object, others read the event that OpenAI describes."""
        told = {"type": "error", "code": None, "message": message, "param": None, "sequence_number": 0}
        return named_event("error", gojson.dumps(gojson.in_key_order(told | error_object(message, "api_error"))))

    def whole(self, events: Sequence[Event]) -> bytes:
        answer = Delta.joined([event for event in events if isinstance(event, Delta)])
        done = next(event for event in reversed(events) if isinstance(event, Done))
        return gojson.dumps(self._object(self._items(answer), done)) + b"\n"

    def _items(self, answer: Delta) -> list[dict[str, Any]]:
        """Text beside calls is left out, as the reference does; a stream has it."""
        items = [reasoning_item(f"rs_{self._id}", answer.thinking)] if answer.thinking else []
        if answer.tool_calls:
            return items + [call_item(f"fc_{self._id}_{at}", call) for at, call in enumerate(answer.tool_calls)]
        return [*items, message_item(f"msg_{_number()}", answer.text)]

    def _object(self, output: list[dict[str, Any]], done: Done | None) -> dict[str, Any]:
        """The response, still in progress without `done`."""
        echo = self._echo
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": gotime.now() // _NS if done else None,
            "status": "completed" if done else "in_progress",
            "incomplete_details": None,
            "model": self._model,
            "previous_response_id": None,
            "instructions": echo.get("instructions"),
            "output": output,
            "error": None,
            "tools": echo.get("tools", []),
            "tool_choice": "auto",
            "truncation": echo.get("truncation"),
            "parallel_tool_calls": True,
            "text": echo.get("text"),
            "top_p": echo.get("top_p"),
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "temperature": echo.get("temperature"),
            "reasoning": echo.get("reasoning"),
            "usage": _usage(done.usage or _NO_USAGE) if done else None,
            "max_output_tokens": echo.get("max_output_tokens"),
            "max_tool_calls": None,
            "store": False,
            "background": echo.get("background"),
            "service_tier": "default",
            "metadata": {},
            "safety_identifier": None,
            "prompt_cache_key": None,
        }


class _Stream:
    """The events of a streamed answer, numbered. At most one item grows at a time; `response` makes the object."""

    def __init__(self, response: Callable[[list[dict[str, Any]], Done | None], dict[str, Any]]) -> None:
        self._response = response
        self._sequence = 0
        self._output: list[dict[str, Any]] = []
        self._growing: GrowingReasoning | GrowingMessage | None = None
        self._calls_id = _number()
        self._calls = 0
        self._has_text = False

    def frames(self, event: Event) -> Iterator[bytes]:
        if self._sequence == 0:
            yield from self._numbered(
                (name, {"response": self._response([], None)}) for name in ("response.created", "response.in_progress")
            )
        if isinstance(event, Delta):
            yield from self._numbered(self._delta(event))
        elif isinstance(event, Done):
            yield from self._numbered(self._ending(event))

    def _delta(self, delta: Delta) -> Iterator[Told]:
        if delta.thinking:
            yield from self._grow(GrowingReasoning, "rs", delta.thinking)
        if delta.text and not self._calls:
            self._has_text = True
            yield from self._grow(GrowingMessage, "msg", delta.text)
        for call in delta.tool_calls:
            yield from self._call(call_id=f"fc_{self._calls_id}_{self._calls}", call=call)

    def _ending(self, done: Done) -> Iterator[Told]:
        if not (self._has_text or self._calls):
            # Whole answers have a message then, too.
            yield from self._grow(GrowingMessage, "msg", "")
        yield from self._close()
        yield "response.completed", {"response": self._response(self._output, done)}

    def _grow(self, kind: type[GrowingReasoning | GrowingMessage], prefix: str, text: str) -> Iterator[Told]:
        growing = self._growing
        if not isinstance(growing, kind):
            yield from self._close()
            growing = self._growing = kind(f"{prefix}_{_number()}", len(self._output))
            yield from growing.opening()
        if text:
            yield growing.piece(text)

    def _call(self, *, call_id: str, call: ToolCall) -> Iterator[Told]:
        yield from self._close()
        yield from call_events(call_id, len(self._output), call)
        self._output.append(call_item(call_id, call))
        self._calls += 1

    def _close(self) -> Iterator[Told]:
        if self._growing is not None:
            yield from self._growing.closing()
            self._output.append(self._growing.item())
            self._growing = None

    def _numbered(self, told: Iterable[Told]) -> Iterator[bytes]:
        for name, members in told:
            data = {**members, "type": name, "sequence_number": self._sequence}
            self._sequence += 1
            yield named_event(name, gojson.dumps(gojson.in_key_order(data)))


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.eval_tokens,
        "total_tokens": usage.prompt_tokens + usage.eval_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }


def _number() -> int:
    return _random.randrange(_LARGEST_NUMBER)
