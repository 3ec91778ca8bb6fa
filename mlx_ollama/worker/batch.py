"""Decoding many streams together. The only module that knows mlx-lm's batch engine, and only its public names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, generate_step

from mlx_ollama.worker.groups import Groups
from mlx_ollama.worker.kv import Cache, can_merge, new_cache
from mlx_ollama.worker.sampling import Processor, Sampler, greedy

LARGEST_BATCH = 32


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
    """One token of one stream. `ended` means that the stream has left the batch; `left` is what it may leave then."""

    handle: int
    token: int
    ended: bool
    left: Left | None = None


class Batch(Protocol):
    """Streams that decode; handles are the batch's own names for them."""

    def __len__(self) -> int: ...

    def join(self, streams: Sequence[Joining]) -> list[int]: ...

    def step(self) -> list[Sampled]: ...

    def leave(self, handle: int) -> Left | None: ...

    def close(self) -> None: ...


def make_batch(model: Any, end_tokens: frozenset[int], made: Callable[[], None] = lambda: None) -> Batch:
    """The batch that a model's kind of cache allows. `made` is called whenever another of mlx-lm's was made."""
    if not can_merge(new_cache(model)):
        return SerialBatch(model, end_tokens)

    def make() -> Batch:
        batch = ContinuousBatch(model, end_tokens)
        made()
        return batch

    return Groups(make)


class ContinuousBatch:
    """Streams join and leave at every step (mlx-lm's `BatchGenerator`, which here only decodes)."""

    def __init__(self, model: Any, end_tokens: frozenset[int]) -> None:
        self._generator = BatchGenerator(
            model,
            sampler=greedy,
            stop_tokens=[[token] for token in sorted(end_tokens)],
            completion_batch_size=LARGEST_BATCH,
            prefill_batch_size=LARGEST_BATCH,
        )
        self._handles: set[int] = set()

    def __len__(self) -> int:
        return len(self._handles)

    def join(self, streams: Sequence[Joining]) -> list[int]:
        """Take streams in; their first tokens come with the next step."""
        handles: list[int] = self._generator.insert_segments(
            [[[stream.tokens[-1]]] for stream in streams],
            max_tokens=[stream.limit for stream in streams],
            caches=[stream.cache for stream in streams],
            # A logits processor sees what is in the cache only if it is told.
            all_tokens=[list(stream.tokens[:-1]) for stream in streams],
            samplers=[stream.sampler for stream in streams],
            logits_processors=[stream.processors for stream in streams],
        )
        self._handles.update(handles)
        return handles

    def step(self) -> list[Sampled]:
        """One token for each stream that decodes."""
        _, responses = self._generator.next()
        sampled = []
        for response in responses:
            if response.finish_reason is None:
                sampled.append(Sampled(response.uid, response.token, ended=False))
            else:
                left = Left(response.all_tokens, response.prompt_cache)
                sampled.append(Sampled(response.uid, response.token, ended=True, left=left))
                self._handles.discard(response.uid)
        return sampled

    def leave(self, handle: int) -> Left | None:
        """Drop a stream at once."""
        self._handles.discard(handle)
        left = self._generator.remove([handle], return_prompt_caches=True).get(handle)
        return Left(left[1], left[0]) if left else None

    def close(self) -> None:
        self._generator.close()


class SerialBatch:
    """One stream after the other, for models whose caches cannot be merged."""

    def __init__(self, model: Any, end_tokens: frozenset[int]) -> None:
        self._model = model
        self._end_tokens = end_tokens
        self._waiting: dict[int, Joining] = {}
        self._running: dict[int, Any] = {}
        self._next_handle = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def join(self, streams: Sequence[Joining]) -> list[int]:
        """Put streams in line."""
        handles = list(range(self._next_handle, self._next_handle + len(streams)))
        self._next_handle += len(streams)
        self._waiting.update(zip(handles, streams, strict=True))
        return handles

    def step(self) -> list[Sampled]:
        """One token of the stream whose turn it is."""
        if not self._running and self._waiting:
            handle = next(iter(self._waiting))
            self._running[handle] = self._decode(self._waiting.pop(handle))
        for handle, tokens in self._running.items():
            token, ended = next(tokens)
            if ended:
                self.leave(handle)
            return [Sampled(handle, token, ended)]
        return []

    def leave(self, handle: int) -> None:
        """Drop a stream at once. Only its prompt is remembered."""
        self._waiting.pop(handle, None)
        if (tokens := self._running.pop(handle, None)) is not None:
            tokens.close()

    def close(self) -> None:
        for handle in [*self._waiting, *self._running]:
            self.leave(handle)

    def _decode(self, stream: Joining) -> Any:
        steps = generate_step(
            mx.array(list(stream.tokens[-1:])),
            self._model,
            max_tokens=stream.limit,
            sampler=stream.sampler,
            logits_processors=[_with_history(processor, stream.tokens[:-1]) for processor in stream.processors],
            prompt_cache=stream.cache,
        )
        for count, (token, _) in enumerate(steps, start=1):
            yield int(token), count >= stream.limit or int(token) in self._end_tokens


def _with_history(processor: Processor, history: Sequence[int]) -> Processor:
    past = mx.array(list(history), dtype=mx.uint32)
    return lambda tokens, logits: processor(mx.concatenate([past, tokens.astype(mx.uint32)]), logits)
