"""The frames between the gateway and a worker; nothing else crosses.

A frame is a big-endian length of four bytes and that many bytes of JSON: an array of the frame's kind and its fields in
order. One `Step` carries what a whole decode step produced, for every stream in the batch.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias

import orjson

from mlx_ollama.types import Delta, Message, TokenLogprob, ToolCall

_LENGTH = struct.Struct("!I")
MAX_FRAME_BYTES = 1 << 30

PromptStyle = Literal["chat", "fill", "raw"]
Piece: TypeAlias = tuple[int, Delta]
"""A part of the answer to a request, by the request's id."""

Failure = Literal["invalid", "too_long", "template", "failed", "memory"]
Spare = Literal["buffers", "prefixes"]
"""What a worker can give back: MLX's pool of freed arrays, and cached prompts that no answer uses."""


class ProtocolError(ValueError):
    """The other side sent something that is no frame."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. `seed` is settled by the gateway, so that a stream can be continued elsewhere.

    `limit` is the most tokens to sample, 0 for as many as the context holds. `logprobs` asks for the likelihood of each
    token and of as many of the likeliest in its place; None for none of that.
    """

    seed: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repeat_last_n: int
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    stop: tuple[str, ...]
    limit: int
    logprobs: int | None = None


@dataclass(frozen=True)
class Prompt:
    """What to read, still as messages or text: only the worker has the tokenizer.

    `template` is Go's TEMPLATE language; None stands for the model's own Jinja chat template. `prefix` are token ids of
    an earlier answer that go in front. `context` is the number of tokens that prompt and answer may fill together.
    `drop_oldest` lets a conversation lose its first turns to fit; `shift` lets the middle of a prompt be cut.
    `think_named` is whether the caller chose `think_level`. `parser` names a reader of the answer
    (`models/parsers.py`), empty for the one that the template tells.
    """

    style: PromptStyle
    context: int
    keep: int
    shift: bool
    drop_oldest: bool = False
    template: str | None = None
    messages: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    text: str = ""
    suffix: str = ""
    prefix: tuple[int, ...] = ()
    think: bool = False
    think_level: str = ""
    think_set: bool = False
    think_named: bool = False
    parser: str = ""


@dataclass(frozen=True)
class Load:
    """Gateway to worker, once and first: the directory of the model that it is there for."""

    directory: str


@dataclass(frozen=True)
class Submit:
    """Gateway to worker: generate. `want_context` asks for the token ids of prompt and answer at the end.

    `grammar` is the JSON schema, as text, to which the answer is held; empty for none. `resume` are the token ids of
    the answer that an earlier worker has sent before it died: the answer goes on behind them.
    """

    id: int
    prompt: Prompt
    sampling: Sampling
    want_context: bool
    grammar: str = ""
    resume: tuple[int, ...] = ()


@dataclass(frozen=True)
class Render:
    """Gateway to worker: only render the prompt, and count its tokens."""

    id: int
    prompt: Prompt


@dataclass(frozen=True)
class Embed:
    """Gateway to worker: turn texts into vectors.

    `context` is the most tokens of one text, with those that the tokenizer puts around it; a longer one loses its end
    if `truncate`, else the request fails. `dimensions` 0 means all of them.
    """

    id: int
    inputs: tuple[str, ...]
    context: int
    truncate: bool
    normalize: bool
    dimensions: int


@dataclass(frozen=True)
class Cancel:
    """Gateway to worker: nobody waits for this request any more."""

    id: int


@dataclass(frozen=True)
class Release:
    """Gateway to worker: memory is short, give back what nobody uses. Answered by `Released`, in order."""

    share: Spare


@dataclass(frozen=True)
class Released:
    """Worker to gateway: so many bytes were given back."""

    freed: int


@dataclass(frozen=True)
class Ping:
    """Gateway to worker: are you there? Answered by `Pong`, by a thread that never waits for the model."""


@dataclass(frozen=True)
class Pong:
    """Worker to gateway: yes."""


@dataclass(frozen=True)
class Ready:
    """Worker to gateway: the model is loaded. Sizes are in bytes; `gpu_memory` is 0 on a CPU."""

    device: str
    weight_bytes: int
    gpu_memory: int
    context_length: int


@dataclass(frozen=True)
class Unloadable:
    """Worker to gateway: the model could not be loaded; the worker ends. `kind` is `failed` or `memory`."""

    reason: str
    kind: Failure = "failed"


@dataclass(frozen=True)
class Known:
    """Worker to gateway: reading a prompt begins, and so many of its tokens are known from others.

    `differs_at` is where it parts from the most similar one, which `was` so there and is `now` so; -1 for nowhere.
    """

    id: int
    reused: int
    differs_at: int = -1
    was: str = ""
    now: str = ""


@dataclass(frozen=True)
class Step:
    """Worker to gateway: what one step produced."""

    deltas: tuple[Piece, ...]


@dataclass(frozen=True)
class Finished:
    """Worker to gateway: the answer is complete. Durations are nanoseconds."""

    id: int
    reason: Literal["stop", "length"]
    prompt_tokens: int
    prompt_ns: int
    eval_tokens: int
    eval_ns: int
    context: tuple[int, ...] | None


@dataclass(frozen=True)
class RenderedPrompt:
    """Worker to gateway: the answer to `Render`. `tokens` is the prompt's length before any shortening."""

    id: int
    text: str
    tokens: int


@dataclass(frozen=True)
class Embedded:
    """Worker to gateway: some vectors of an `Embed` as (index of the text, JSON array); `left` are still to come."""

    id: int
    vectors: tuple[tuple[int, str], ...]
    tokens: int
    left: int


@dataclass(frozen=True)
class Failed:
    """Worker to gateway: this request failed, the others go on."""

    id: int
    kind: Failure
    reason: str


Frame = (
    Submit
    | Render
    | Cancel
    | Ready
    | Unloadable
    | Step
    | Finished
    | RenderedPrompt
    | Failed
    | Embed
    | Embedded
    | Release
    | Released
    | Known
    | Ping
    | Pong
    | Load
)
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
