"""Reading prompts in slices of bounded time, so that running answers and cancellations never wait long."""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import KVCache, make_prompt_cache

from mlx_ollama.protocol import Failure
from mlx_ollama.worker.failure import failure_of

logger = logging.getLogger(__name__)

FIRST_SLICE_TOKENS = 16
LONGEST_SLICE_TOKENS = 2048
SHORTEST_SLICE_TOKENS = 4
SHORT_PROMPT_TOKENS = 64
SHARED_SLICE_TOKENS = 512
GROWTH = 4
"""How much longer than the longest slice so far the next may be: a quick slice says little about a long one."""


@dataclass
class Reading:
    """A prompt under way.

    `cache` holds the keys and values of `tokens[:position]`. The last token is never read here: decoding begins with
    it. `failure` says why reading had to be given up; `alone` forbids to read it together with others.
    """

    id: int
    tokens: list[int]
    cache: list[Any] = field(default_factory=list)
    position: int = 0
    failure: str = ""
    failure_kind: Failure = "failed"
    alone: bool = False

    @property
    def remaining(self) -> int:
        return len(self.tokens) - 1 - self.position


class Prefill:
    """The prompts that are being read, in turn.

    `budget` is the time in seconds after which `advance` returns; it bounds each slice by the speed measured last.
    """

    def __init__(self, model: Any, *, budget: float, clock: Callable[[], float]) -> None:
        self._model = model
        self._budget = budget
        self._clock = clock
        self._queue: deque[Reading] = deque()
        self._seconds_per_token = 0.0
        self._longest_slice = 0

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, id: int, tokens: list[int]) -> None:  # noqa: A002 - it is one
        self._queue.append(Reading(id, tokens, make_prompt_cache(self._model)))

    def remove(self, id: int) -> bool:  # noqa: A002 - it is one
        """Forget a prompt; says whether it was here."""
        before = len(self._queue)
        self._queue = deque(reading for reading in self._queue if reading.id != id)
        return len(self._queue) < before

    def advance(self, most: int) -> list[Reading]:
        """Read for one budget of time at most; return the prompts that are complete, or have failed.

        `most` is how many may be under way at once: each holds a cache.
        """
        deadline = self._clock() + self._budget
        complete: list[Reading] = []
        while self._queue and len(complete) < most:
            if len(together := self._short_ones(most - len(complete), deadline - self._clock())) > 1:
                complete += self._try_together(together)
            else:
                reading = self._queue.popleft()
                if reading.remaining:
                    self._try_slice(reading, deadline - self._clock())
                if reading.remaining and not reading.failure:
                    # The next in line has its turn: a short prompt need not wait for the whole of a long one.
                    self._queue.insert(most - len(complete) - 1, reading)
                else:
                    complete.append(reading)
            if self._clock() + self._seconds_per_token * SHORTEST_SLICE_TOKENS >= deadline:
                break
        return complete

    def _short_ones(self, most: int, seconds: float) -> list[Reading]:
        """Take the short prompts at the head of the queue, whose reading is not begun, out of it: one pass for all.

        A pass over the weights is what reading them costs, however few tokens there are. Only plain caches can be told
        apart afterwards.
        """
        limit = min(SHARED_SLICE_TOKENS, self._affordable(seconds))
        together: list[Reading] = []
        width = 0
        for reading in islice(self._queue, most):
            width = max(width, reading.remaining)
            if not _can_share(reading) or width * (len(together) + 1) > limit:
                break
            together.append(reading)
        if len(together) > 1:
            for _ in together:
                self._queue.popleft()
        return together

    def _try_together(self, readings: list[Reading]) -> list[Reading]:
        """The same prompts, read; none if that failed, and each is then tried alone."""
        try:
            self._read_together(readings)
        except Exception:
            logger.exception("%d requests could not be read together", len(readings))
            for reading in readings:
                reading.position, reading.alone = 0, True
                reading.cache = make_prompt_cache(self._model)
            self._queue.extendleft(reversed(readings))
            return []
        return readings

    def _read_together(self, readings: list[Reading]) -> None:
        """Read whole prompts in one pass, padded at their ends: nothing that comes later changes what came before."""
        started = self._clock()
        width = max(reading.remaining for reading in readings)
        rows = [reading.tokens[:-1] + [0] * (width - reading.remaining) for reading in readings]
        shared = [KVCache() for _ in readings[0].cache]
        self._model(mx.array(rows), cache=shared)
        for row, reading in enumerate(readings):
            count = reading.remaining
            for own, layer in zip(reading.cache, shared, strict=True):
                keys, values = (part[row : row + 1, :, :count] for part in (layer.keys, layer.values))
                own.state = mx.contiguous(keys), mx.contiguous(values), count
            reading.position = count
        mx.eval([layer.state for reading in readings for layer in reading.cache])
        self._learn(width * len(readings), self._clock() - started)

    def _try_slice(self, reading: Reading, seconds: float) -> None:
        try:
            self._read_slice(reading, seconds)
        # A prompt for which there is no memory, say, has touched nothing but its own cache.
        except Exception as error:
            logger.exception("request %d could not be read", reading.id)
            reading.failure, reading.failure_kind = f"{type(error).__name__}: {error}", failure_of(error)

    def _read_slice(self, reading: Reading, seconds: float) -> None:
        count = min(reading.remaining, self._affordable(seconds))
        started = self._clock()
        piece = mx.array(reading.tokens[reading.position : reading.position + count])[None]
        self._model(piece, cache=reading.cache)
        mx.eval([layer.state for layer in reading.cache])
        reading.position += count
        self._learn(count, self._clock() - started)

    def _affordable(self, seconds: float) -> int:
        grown = min(LONGEST_SLICE_TOKENS, max(FIRST_SLICE_TOKENS, GROWTH * self._longest_slice))
        if not self._seconds_per_token:
            return grown
        return max(SHORTEST_SLICE_TOKENS, min(grown, int(seconds / self._seconds_per_token)))

    def _learn(self, count: int, seconds: float) -> None:
        """Remember how fast reading goes; a few tokens at a prompt's end say nothing about that."""
        if count >= FIRST_SLICE_TOKENS or not self._seconds_per_token:
            self._seconds_per_token = seconds / count
        self._longest_slice = max(self._longest_slice, count)


def _can_share(reading: Reading) -> bool:
    is_short = 0 < reading.remaining <= SHORT_PROMPT_TOKENS and reading.position == 0
    return is_short and not reading.alone and all(type(layer) is KVCache for layer in reading.cache)
