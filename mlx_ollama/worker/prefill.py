"""Reading prompts in slices of bounded time, so that running answers and cancellations never wait long."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_ollama.worker.kv import Cache, copied, is_plain, new_cache, read, read_rows
from mlx_ollama.worker.prefixes import Difference, Prefixes
from mlx_ollama.worker.reading_cost import ReadingCost

logger = logging.getLogger(__name__)

LONGEST_SLICE_TOKENS = 2048
SHORTEST_SLICE_TOKENS = 4
FIRST_PASS_TOKENS = 64
"""Of a model of which nothing is known: a question with its template, in one pass over weights that are cold yet."""

SHORT_PROMPT_TOKENS = 128
SHARED_SLICE_TOKENS = 512
GROWTH = 4
"""How much longer than the longest slice so far the next may be: a quick slice says little about a long one."""


@dataclass
class Reading:
    """A prompt under way.

    `cache` holds what the model remembers of `tokens[:position]`. The last token is never read here: decoding begins
    with it. `key` is what prompts must share besides tokens to know of each other; `marks` are positions in rising
    order at which the cache is remembered, because it cannot be shortened to them later. `reused` tokens were known,
    and `difference` is where they end. From `singly_from` on tokens are read one at a time, as they were when they were
    said: to sum in the same order gives the same numbers. `failure` says why reading had to be given up; `alone`
    forbids to read it together with others.
    """

    id: int
    tokens: list[int]
    cache: Cache = field(default_factory=list)
    position: int = 0
    key: str = ""
    marks: Sequence[int] = ()
    reused: int = 0
    difference: Difference | None = None
    has_begun: bool = False
    singly_from: int | None = None
    failure: Exception | None = None
    alone: bool = False

    @property
    def remaining(self) -> int:
        return len(self.tokens) - 1 - self.position

    @property
    def until_mark(self) -> int:
        """How many tokens may be read in one slice."""
        if self.singly_from is not None and self.position >= self.singly_from:
            return 1
        end = len(self.tokens) - 1 if self.singly_from is None else self.singly_from
        return next((mark for mark in self.marks if self.position < mark < end), end) - self.position


class Prefill:
    """The prompts that are being read.

    The shortest goes first, and as a prompt gets shorter while it is read, what is begun is finished. But whoever has
    waited longest is given as much time as those who overtake. `clock` counts seconds.
    """

    def __init__(self, model: Any, prefixes: Prefixes, *, clock: Callable[[], float]) -> None:
        self._model = model
        self._prefixes = prefixes
        self._clock = clock
        self._queue: list[Reading] = []
        self._owed = 0.0
        self.needs_marks = prefixes.is_on and not is_plain(new_cache(model))
        self._cost = ReadingCost()
        self._longest_slice = 0

    def __len__(self) -> int:
        return len(self._queue)

    def add(
        self,
        id: int,  # noqa: A002 - it is one
        tokens: list[int],
        key: str = "",
        marks: Sequence[int] = (),
        singly_from: int | None = None,
    ) -> None:
        reading = Reading(id, tokens, new_cache(self._model), key=key, marks=marks, singly_from=singly_from)
        self._recall(reading, is_used=False)
        self._queue.append(reading)

    def remove(self, id: int) -> bool:  # noqa: A002 - it is one
        """Forget a prompt, though not what was read of it; says whether it was here."""
        found = [reading for reading in self._queue if reading.id == id]
        for reading in found:
            if reading is self._queue[0]:
                self._owed = 0.0
            self._queue.remove(reading)
            self._remember(reading)
        return bool(found)

    @property
    def least(self) -> float:
        """Seconds that a pass is worth while with."""
        return max(self._cost.least, self._cost.of(SHORTEST_SLICE_TOKENS))

    def quick(self, seconds: float) -> list[float]:
        """What prompts cost yet, in seconds, of which each is read with one pass of no more than so many."""
        most = self._affordable(seconds)
        return [
            self._cost.of(reading.remaining)
            for reading in self._queue
            if reading.remaining <= most and reading.remaining <= reading.until_mark
        ]

    def advance(self, most: int, budget: float) -> tuple[list[Reading], list[Reading]]:
        """Make one pass, of `budget` seconds at most; return the prompts that it began, and those complete or failed.

        There is at least one prompt. `most` is how many may be under way at once, one or more: each holds a cache. The
        speed of the passes before tells how long this one may be.
        """
        chosen = self._choose(most, budget)
        begun = [reading for reading in chosen if not reading.has_begun]
        for reading in begun:
            self._begin(reading)
        return begun, self._in_turn(chosen, budget)

    def _choose(self, most: int, seconds: float) -> list[Reading]:
        """Whose turn it is: several short prompts together, or one."""
        is_full = sum(reading.has_begun for reading in self._queue) >= most
        waiting = [reading for reading in self._queue if reading.has_begun or not is_full]
        oldest = waiting[0] if self._owed > 0 else None
        in_order = sorted(waiting, key=lambda reading: (reading is not oldest, reading.remaining))
        return self._short_ones(in_order[:most], seconds) or in_order[:1]

    def _in_turn(self, chosen: list[Reading], seconds: float) -> list[Reading]:
        """Read of these, and keep account of what the oldest is owed."""
        oldest, started = self._queue[0], self._clock()
        done = self._read(chosen, seconds)
        spent = self._clock() - started
        self._owed = max(0.0, self._owed - spent) if oldest in chosen else self._owed + spent
        if oldest in done:
            self._owed = 0.0
        return done

    def _short_ones(self, in_order: list[Reading], seconds: float) -> list[Reading]:
        """The first of these and others that are short and not begun, as many as one pass may hold.

        A pass over the weights is what reading them costs, however few tokens there are. Only plain caches can be told
        apart afterwards.
        """
        limit = min(SHARED_SLICE_TOKENS, self._affordable(seconds))
        together: list[Reading] = []
        width = 0
        # Whoever is owed a turn is not passed over.
        for reading in filter(_can_share, in_order if _can_share(in_order[0]) else []):
            width = max(width, reading.remaining)
            if width * (len(together) + 1) > limit:
                break
            together.append(reading)
        return together if len(together) > 1 else []

    def _begin(self, reading: Reading) -> None:
        """Look again what is known of a prompt: another like it may have been read while it waited."""
        reading.has_begun = True
        self._recall(reading, is_used=True)

    def _recall(self, reading: Reading, *, is_used: bool) -> None:
        known = self._prefixes.recall(reading.key, reading.tokens, is_used=is_used)
        reading.difference = known.difference
        if known.cache is not None and known.length > reading.position:
            reading.cache, reading.position, reading.reused = known.cache, known.length, known.length

    def _remember(self, reading: Reading) -> None:
        if reading.position > reading.reused:
            self._prefixes.keep(reading.key, reading.tokens[: reading.position], copied(reading.cache))

    def _read(self, chosen: list[Reading], seconds: float) -> list[Reading]:
        """Read of these; return those that are done with."""
        if len(chosen) > 1 and all(map(_can_share, chosen)):
            if not self._try_together(chosen):
                return []
        else:
            # Something may just have turned out to be known of one of several: they have their turns then.
            del chosen[1:]
            if chosen[0].remaining:
                self._try_slice(chosen[0], seconds)
        done = [reading for reading in chosen if reading.failure is not None or not reading.remaining]
        for reading in done:
            self._queue.remove(reading)
            if reading.failure is None:
                self._remember(reading)
        return done

    def _try_together(self, readings: list[Reading]) -> bool:
        """Read whole prompts in one pass; if that fails, each is tried alone later."""
        started = self._clock()
        width = max(reading.remaining for reading in readings)
        rows = [reading.tokens[:-1] + [0] * (width - reading.remaining) for reading in readings]
        try:
            read_rows(self._model, rows, [r.cache for r in readings], [r.remaining for r in readings])
        # Its type is up to mlx and the model's code; whose fault it is shows when each is tried alone.
        except Exception:
            logger.exception("%d requests could not be read together", len(readings))
            for reading in readings:
                reading.cache, reading.alone = new_cache(self._model), True
            return False
        for reading in readings:
            reading.position = len(reading.tokens) - 1
        self._learn(width * len(readings), self._clock() - started)
        return True

    def _try_slice(self, reading: Reading, seconds: float) -> None:
        try:
            self._read_slice(reading, seconds)
        # A prompt for which there is no memory, say, has touched nothing but its own cache.
        except Exception as error:
            logger.exception("request %d could not be read", reading.id)
            reading.failure = error

    def _read_slice(self, reading: Reading, seconds: float) -> None:
        count = min(reading.until_mark, self._affordable(seconds))
        started = self._clock()
        read(self._model, reading.tokens[reading.position : reading.position + count], reading.cache)
        reading.position += count
        self._learn(count, self._clock() - started)
        if reading.position in reading.marks:
            self._remember(reading)

    def _affordable(self, seconds: float) -> int:
        grown = min(LONGEST_SLICE_TOKENS, max(FIRST_PASS_TOKENS, GROWTH * self._longest_slice))
        return int(max(SHORTEST_SLICE_TOKENS, min(grown, self._cost.affordable(seconds))))

    def _learn(self, count: int, seconds: float) -> None:
        self._cost.learn(count, seconds)
        self._longest_slice = max(self._longest_slice, count)


def _can_share(reading: Reading) -> bool:
    is_short = 0 < reading.remaining <= SHORT_PROMPT_TOKENS and reading.position == 0
    return is_short and not reading.alone and reading.singly_from is None and is_plain(reading.cache)
