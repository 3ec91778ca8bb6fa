"""Decoding many streams together: one pass over the weights gives each of them a token."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import mlx.core as mx

from mlx_ollama.worker.groups import Groups
from mlx_ollama.worker.kv import Cache, can_merge, extract, keep, merge, new_cache
from mlx_ollama.worker.sampling import Processor, Sampler, sample

logger = logging.getLogger(__name__)

LARGEST_BATCH = 32

STEPS_A_TIDYING = 512
"""So many steps after another MLX gives memory back that it kept for arrays of sizes that have gone by."""


@dataclass(frozen=True)
class Joining:
    """A stream whose prompt has been read but for its last token. `limit` is the most tokens to sample."""

    tokens: Sequence[int]
    cache: Cache
    sampler: Sampler
    processors: list[Processor]
    limit: int


class Left(NamedTuple):
    """What a stream leaves behind: its tokens, prompt and answer, and what the model remembers of them."""

    tokens: Sequence[int]
    cache: Cache


class Sampled(NamedTuple):
    """One token of one stream. `ended` means that the stream has left the batch; `left` is what it may leave then.

    With `failure` it has left for that reason, and the token is none.
    """

    handle: int
    token: int
    ended: bool
    left: Left | None = None
    failure: Exception | None = None


class Batch(Protocol):
    """Streams that decode; handles are the batch's own names for them."""

    def __len__(self) -> int: ...

    def join(self, streams: Sequence[Joining]) -> list[int]: ...

    def step(self) -> list[Sampled]: ...

    def leave(self, handle: int) -> Left | None: ...

    def close(self) -> None: ...


def make_batch(model: Any, end_tokens: frozenset[int]) -> Batch:
    """The batch for a model; streams whose caches cannot be merged decode beside each other, each in its own."""
    return Groups(partial(ContinuousBatch, model, end_tokens), can_share=can_merge(new_cache(model)))


@dataclass(eq=False)
class _Row:
    """A stream in a batch. `tokens` are those in its cache; `left` is how many may be sampled yet."""

    handle: int
    tokens: list[int]
    sampler: Sampler
    processors: Sequence[Processor]
    left: int
    is_said: bool = True
    """Whether the token that it reads next has been said; the prompt's last one was never to be."""
    failure: Exception | None = None
    """What a processor of it has raised, because of which it has no next token."""


class ContinuousBatch:
    """Streams that join and leave at every step.

    A step begins the computation of the next tokens before it waits for the last ones, so that the device is never
    idle while Python looks at them. Only the first token of a stream, for which somebody waits, is said at once: on a
    CPU most of a pass is over when its computation has been begun. The distributions are not normalised, which no
    sampler needs and mlx-lm's `BatchGenerator` does at every step: with eight streams on a CPU that was an eighth of
    the time.

    A stream that is alone keeps the cache it came with, and needs no mask for padding.
    """

    def __init__(self, model: Any, end_tokens: frozenset[int]) -> None:
        self._model = model
        self._end_tokens = end_tokens
        self._arrived: dict[int, Joining] = {}
        self._rows: list[_Row] = []
        self._cache: Cache = []
        self._inputs = mx.array([], dtype=mx.uint32)
        self._next_handle = 0
        self._steps = 0

    def __len__(self) -> int:
        return len(self._rows) + len(self._arrived)

    def join(self, streams: Sequence[Joining]) -> list[int]:
        """Take streams in; their first tokens come with the next step."""
        handles = list(range(self._next_handle, self._next_handle + len(streams)))
        self._next_handle += len(streams)
        self._arrived.update(zip(handles, streams, strict=True))
        return handles

    def step(self) -> list[Sampled]:
        """A token for each stream.

        When others join, those that were here say two, and nobody says anything with the next step.
        """
        is_joined = bool(self._arrived)
        if is_joined:
            self._enter()
        if not self._rows:
            return []
        self._tidy()
        inputs = self._inputs
        failures = [row.failure for row in self._rows]
        samplers = [row.sampler for row in self._rows]
        logits = self._model(inputs[:, None], cache=self._cache)[:, -1, :]
        if any(row.processors for row in self._rows):
            # The model computes while the processors look at what was said.
            _begin(logits)
            self._note(inputs)
            self._inputs = _begin(sample(samplers, self._processed(logits)))
        else:
            self._inputs = _begin(sample(samplers, logits))
            self._note(inputs)
        said = self._said([row.tokens[-1] for row in self._rows], failures)
        return said + self._said_at_once() if is_joined else said

    def leave(self, handle: int) -> Left | None:
        """Drop a stream at once."""
        if (stream := self._arrived.pop(handle, None)) is not None:
            return Left(stream.tokens[:-1], stream.cache)
        for at, row in enumerate(self._rows):
            if row.handle == handle:
                left = Left(row.tokens, extract(self._cache, len(self._rows), at))
                self._keep([other for other in range(len(self._rows)) if other != at])
                return left
        return None

    def close(self) -> None:
        self._arrived.clear()
        self._keep([])

    def _enter(self) -> None:
        streams = self._arrived.values()
        self._cache = merge(self._cache, len(self._rows), [stream.cache for stream in streams])
        last = mx.array([stream.tokens[-1] for stream in streams], dtype=mx.uint32)
        self._inputs = mx.concatenate([self._inputs, last])
        self._rows += [
            _Row(handle, list(stream.tokens[:-1]), stream.sampler, stream.processors, stream.limit)
            for handle, stream in self._arrived.items()
        ]
        self._arrived.clear()

    def _note(self, inputs: mx.array) -> None:
        """Wait for the tokens that the step reads, which are those that the last one has sampled."""
        tokens: list[int] = inputs.tolist()  # type: ignore[assignment]
        for row, token in zip(self._rows, tokens, strict=True):
            row.tokens.append(token)

    def _processed(self, logits: mx.array) -> mx.array:
        return mx.concatenate([_processed(row, logits[at : at + 1]) for at, row in enumerate(self._rows)])

    def _said(self, tokens: Sequence[int], failures: Sequence[Exception | None]) -> list[Sampled]:
        """What the rows have said with these tokens, if it is not said already; those that end with it leave.

        `failures` are of the time when the tokens were sampled: what is said before one is said.
        """
        said, staying = [], []
        for at, (row, token, failure) in enumerate(zip(self._rows, tokens, failures, strict=True)):
            if row.is_said:
                row.is_said = False
                staying.append(at)
                continue
            if failure is not None:
                said.append(Sampled(row.handle, token, ended=True, failure=failure))
                continue
            row.left -= 1
            if row.left > 0 and token not in self._end_tokens:
                said.append(Sampled(row.handle, token, ended=False))
                staying.append(at)
            else:
                left = Left(row.tokens, extract(self._cache, len(self._rows), at))
                said.append(Sampled(row.handle, token, ended=True, left=left))
        if len(staying) < len(self._rows):
            self._keep(staying)
        return said

    def _said_at_once(self) -> list[Sampled]:
        """What the step samples that has just begun."""
        tokens: list[int] = self._inputs.tolist()  # type: ignore[assignment]
        said = self._said(tokens, [row.failure for row in self._rows])
        for row in self._rows:
            row.is_said = True
        return said

    def _keep(self, rows: list[int]) -> None:
        self._cache = keep(self._cache, len(self._rows), rows)
        self._inputs = self._inputs[mx.array(rows, dtype=mx.uint32)]
        self._rows = [self._rows[at] for at in rows]

    def _tidy(self) -> None:
        self._steps += 1
        if self._steps % STEPS_A_TIDYING == 0:
            mx.clear_cache()


def _processed(row: _Row, logits: mx.array) -> mx.array:
    """The logits of one row as its processors want them; what they raise is for this row alone."""
    if row.failure is not None:
        return logits
    own = logits
    try:
        for processor in row.processors:
            own = processor(row.tokens, own)
    # Whatever a stream's grammar or penalties raise is about that stream.
    except Exception as error:
        logger.exception("a processor of stream %d failed", row.handle)
        row.failure = error
        return logits
    return own


def _begin(array: mx.array) -> mx.array:
    """Have an array computed without waiting for it."""
    mx.async_eval(array)  # type: ignore[no-untyped-call]
    return array
