"""Frames as bytes, and back.

A frame is a big-endian length of four bytes and that many bytes of JSON: an array of the frame's kind and its fields in
order.
"""

import struct
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import orjson

from mlx_ollama.protocol import (
    Cancel,
    Embed,
    Embedded,
    Failed,
    Finished,
    Frame,
    Known,
    Load,
    Piece,
    Ping,
    Pong,
    Prompt,
    Ready,
    Release,
    Released,
    Render,
    RenderedPrompt,
    Sampling,
    Share,
    Step,
    Submit,
    Unloadable,
)
from mlx_ollama.types import Delta, Message, TokenLogprob, ToolCall

_LENGTH = struct.Struct("!I")
MAX_FRAME_BYTES = 1 << 30


class ProtocolError(ValueError):
    """The other side sent something that is no frame."""


_KINDS: tuple[type[Any], ...] = (
    Submit,
    Render,
    Cancel,
    Ready,
    Unloadable,
    Step,
    Finished,
    RenderedPrompt,
    Failed,
    Embed,
    Embedded,
    Release,
    Released,
    Known,
    Ping,
    Pong,
    Load,
    Share,
)
_TAGS = {kind: tag for tag, kind in enumerate(_KINDS)}
_NAMES = {kind: tuple(part.name for part in fields(kind)) for kind in _KINDS}


def encode(frame: Frame) -> bytes:
    """A frame as bytes, its length in front.

    Raises:
        ProtocolError: for values nested deeper than JSON can be written.
    """
    kind = type(frame)
    # `default`: numbers in tool arguments may be floats that remember their spelling.
    try:
        body = orjson.dumps([_TAGS[kind], *_values(frame)], default=float)
    except TypeError as error:
        raise ProtocolError(str(error)) from error
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Cuts a byte stream into frames, whatever the pieces in which it arrives."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that `data` completes.

        Raises:
            ProtocolError: for something that is no frame; the stream is then useless.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                raise ProtocolError(f"a frame of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield _decode(body)


def _values(frame: Frame) -> list[Any]:
    if isinstance(frame, Step):
        return [[_delta_values(request, delta) for request, delta in frame.deltas]]
    return [getattr(frame, name) for name in _NAMES[type(frame)]]


def _delta_values(request: int, delta: Delta) -> list[Any]:
    """Plain text is by far the most frequent, so it is short."""
    plain = [request, delta.text, delta.tokens, delta.position]
    if not (delta.thinking or delta.tool_calls or delta.logprobs):
        return plain
    return [*plain, delta.thinking, delta.tool_calls, delta.logprobs]


def _decode(body: bytes) -> Frame:
    try:
        tag, *values = orjson.loads(body)
        frame: Frame = _BUILDERS.get(_KINDS[tag], _KINDS[tag])(*values)
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise ProtocolError(f"not a frame: {body[:80]!r}") from error
    return frame


def _submit(request: int, prompt: dict[str, Any], sampling: dict[str, Any], *rest: Any) -> Submit:
    sampling["stop"] = tuple(sampling["stop"])
    want_context, grammar, resume = rest
    return Submit(request, _prompt(prompt), Sampling(**sampling), want_context, grammar, tuple(resume))


def _render(request: int, prompt: dict[str, Any]) -> Render:
    return Render(request, _prompt(prompt))


def _prompt(members: dict[str, Any]) -> Prompt:
    members["messages"] = tuple(_message(message) for message in members["messages"])
    members["tools"] = tuple(members["tools"])
    members["prefix"] = tuple(members["prefix"])
    return Prompt(**members)


def _message(members: dict[str, Any]) -> Message:
    members["images"] = members["audio"] = ()
    members["tool_calls"] = tuple(ToolCall(**call) for call in members["tool_calls"])
    return Message(**members)


def _step(deltas: list[list[Any]]) -> Step:
    return Step(tuple(_piece(*values) for values in deltas))


def _piece(request: int, text: str, tokens: list[int], position: int, *rest: Any) -> Piece:
    if not rest:
        return request, Delta(text, tuple(tokens), position)
    thinking, calls, logprobs = rest
    tool_calls = tuple(ToolCall(**call) for call in calls)
    return request, Delta(text, tuple(tokens), position, thinking, tool_calls, tuple(map(_logprob, logprobs)))


def _logprob(members: dict[str, Any]) -> TokenLogprob:
    top = tuple(_logprob(other) for other in members["top"])
    return TokenLogprob(members["token"], members["logprob"], tuple(members["bytes"]), top)


def _finished(*values: Any) -> Finished:
    finished = Finished(*values)
    return finished if finished.context is None else replace(finished, context=tuple(finished.context))


def _embed(request: int, inputs: list[str], *rest: Any) -> Embed:
    return Embed(request, tuple(inputs), *rest)


def _embedded(request: int, vectors: list[Any], *rest: Any) -> Embedded:
    return Embedded(request, tuple((index, vector) for index, vector in vectors), *rest)


_BUILDERS: dict[type[Any], Any] = {
    Submit: _submit,
    Render: _render,
    Step: _step,
    Finished: _finished,
    Embed: _embed,
    Embedded: _embedded,
}
