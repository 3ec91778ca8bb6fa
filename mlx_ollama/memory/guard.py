"""Watches memory and makes room in it: a worker without a model goes first, then buffers, idle prefixes, idle models.

What does not fit after all that is refused.
"""

import asyncio
import logging
import math
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from mlx_ollama.errors import NoRoom, OutOfMemory, WorkerDied
from mlx_ollama.memory.estimate import Need
from mlx_ollama.memory.gauge import GIGABYTE, PERCENT, MemoryGauge, Reading
from mlx_ollama.protocol import Spare

logger = logging.getLogger(__name__)

_MEBIBYTE = 1 << 20

SHARES: tuple[Spare, ...] = ("buffers", "prefixes")
"""What workers can give back without ending, in the order in which they are asked for it."""

ENDS = (-signal.SIGKILL, -signal.SIGABRT, -signal.SIGSEGV)
"""How a process ends that found no memory: the system kills it, Metal aborts, MLX's CPU backend writes to nothing."""


class Level(IntEnum):
    """How short memory is."""

    CALM = 0
    WARNING = 1
    CRITICAL = 2
    EMERGENCY = 3


@dataclass(frozen=True)
class Thresholds:
    """Percent of memory in use from which on a level is reached."""

    warning: float
    critical: float
    emergency: float

    def level(self, reading: Reading) -> Level:
        limits = (self.warning, self.critical, self.emergency)
        return Level(sum(reading.percent >= limit for limit in limits))


class Crew(Protocol):
    """Those who hold memory for us: the pool. What is in use or loading is never touched by any of it."""

    async def give_back(self, share: Spare) -> int:
        """Ask every worker for its spare bytes; how many came back."""
        ...

    async def give_up_spare(self) -> bool:
        """End the worker that waits for a model; whether there was one."""
        ...

    def renew_spare(self) -> None:
        """Have such a worker again, if there is none."""
        ...

    def dispensable(self) -> Sequence[str]:
        """Idle models by what identifies them, the first to go first, as the chooser has it."""
        ...

    def idle(self) -> Sequence[str]:
        """All idle models, whatever the chooser thinks of them."""
        ...

    async def unload_idle(self, key: str) -> str:
        """Unload an idle model and wait until its memory is free; its name, empty if it is idle no more."""
        ...

    def promised(self) -> int:
        """Bytes that are spoken for and not in use yet: models that load, answers that grow."""
        ...

    def holders(self) -> Sequence[str]:
        """Who holds memory and cannot give it back, in words."""
        ...


class MemoryGuard:
    """Keeps a reading of the memory and acts on it, for one `Crew`.

    `gauge` None switches everything off. `keep` is how many idle models stay when memory is critical.
    """

    def __init__(self, gauge: MemoryGauge | None, thresholds: Thresholds, *, interval: float, keep: int) -> None:
        self._gauge = gauge
        self.thresholds = thresholds
        self._interval = interval
        self._keep = keep
        self._level = Level.CALM
        self._last: Reading | None = None
        self._is_short = False
        self._kills = gauge.kills() if gauge else 0
        self._kills_before = self._kills
        # One at a time makes room: two who look at the same free bytes would both take them.
        self._lock = asyncio.Lock()

    @property
    def is_short(self) -> bool:
        """Whether memory has been critical and is not calm yet: no time for luxuries."""
        return self._is_short

    def read(self) -> Reading | None:
        """How full memory is now; None if the guard is off."""
        return self._gauge.read() if self._gauge else None

    async def watch(self, crew: Crew, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Sample for ever, once an interval."""
        if self._gauge is None:
            logger.warning("memory is not watched: psutil is not installed")
        while self._gauge is not None:
            try:
                await self.sample(crew)
            # A gauge that fails once, or a chooser that does, shall not leave the server without a guard.
            except Exception:
                logger.exception("the memory guard could not do its work")
            await sleep(self._interval)

    async def sample(self, crew: Crew) -> None:
        """Read the gauge once and do what its level asks for."""
        if (reading := self._take()) is None:
            return
        level = self.thresholds.level(reading)
        is_news = self._tell(level, reading)
        if level is Level.CALM:
            crew.renew_spare()
        if level is Level.EMERGENCY and (is_news or crew.idle()):
            await self.clean_up(crew, f"memory is {reading.percent:.1f} % in use")
        elif level is Level.CRITICAL:
            async with self._lock:
                await self._relieve(crew, self._is_calmer, keep=self._keep)

    async def reserve(self, crew: Crew, name: str, need: Need, promise: Callable[[int], None]) -> None:
        """See to it that a model of such a size fits below the critical level, and `promise` it these bytes.

        Idle models make room as they must; the one that comes counts as one of those that are kept.

        Raises:
            NoRoom: if it does not fit, with the sum.
        """
        if self._gauge is None:
            return

        def fits(reading: Reading) -> bool:
            return crew.promised() + need.total < min(self._room(bound) for bound in reading.every)

        async with self._lock:
            reading = self._take()
            if reading is not None and not fits(reading):
                reading = await self._relieve(crew, fits, keep=max(0, self._keep - 1))
                if not fits(reading):
                    refusal = self._refusal(name, need, reading, crew)
                    logger.warning("refused: %s", refusal.message)
                    raise refusal
            promise(need.total)

    async def admit(self, crew: Crew, name: str) -> None:
        """Let a request in whose answer `promised()` counts already, unless all that is promised cannot be there.

        Raises:
            NoRoom: if answers would outgrow the memory that there is.
        """

        def fits(reading: Reading) -> bool:
            return all(crew.promised() <= bound.available for bound in reading.every)

        if self._last is None or fits(self._last):
            return
        async with self._lock:
            if (reading := self._take()) is not None and not fits(reading):
                reading = await self._relieve(crew, fits, keep=self._keep)
                if not fits(reading):
                    bound = min(reading.every, key=lambda bound: bound.available)
                    raise NoRoom(
                        f"not enough memory to answer with {name}: {_gb(crew.promised())} for answers that are under "
                        f"way and this one, and {_gb(bound.available)} of {_gb(bound.total)} are free",
                        retry_after=self._patience,
                    )

    async def clean_up(self, crew: Crew, cause: str) -> None:
        """The emergency: everything goes that is idle. A failure is one without a gauge, too."""
        logger.error("emergency: %s; everything idle is given up", cause)
        async with self._lock:
            await self._drop_spare(crew)
            for share in SHARES:
                await self._ask(crew, share)
            for key in crew.idle():
                _log_unloaded(await crew.unload_idle(key))

    def verdict(self, status: int | None, obituary: str) -> WorkerDied | OutOfMemory:
        """What a worker's end was. It counts as want of memory only if there is a witness for that.

        That is SIGKILL and a kill that the system has counted since the last but one sample; or one of the ends that
        want of memory has, with memory critical when it was last looked at.
        """
        if self._gauge is None or status not in ENDS:
            return WorkerDied(obituary)
        if status == -signal.SIGKILL and self._gauge.kills() > self._kills_before:
            return OutOfMemory(f"{obituary}; the system was out of memory and ended it")
        if self._last is not None and self.thresholds.level(self._last) >= Level.CRITICAL:
            return OutOfMemory(f"{obituary}; memory was {self._last.percent:.1f} % in use")
        return WorkerDied(obituary)

    def _take(self) -> Reading | None:
        if self._gauge is not None:
            self._reread()
            self._kills_before, self._kills = self._kills, self._gauge.kills()
        return self._last

    def _is_calmer(self, reading: Reading) -> bool:
        return self.thresholds.level(reading) < Level.CRITICAL

    @property
    def _patience(self) -> int:
        """Whole seconds after which asking again may help: memory is then looked at anew."""
        return max(1, math.ceil(self._interval))

    def _allowed(self, reading: Reading) -> float:
        return reading.total * self.thresholds.critical / PERCENT

    def _room(self, reading: Reading) -> float:
        """Bytes that are left below the critical level."""
        return self._allowed(reading) - reading.used

    async def _relieve(self, crew: Crew, enough: Callable[[Reading], bool], *, keep: int) -> Reading:
        """The remedies in their order, each only if the one before did not do; how full memory is then."""
        if self._is_short and await self._drop_spare(crew) and enough(reading := self._reread()):
            return reading
        for share in SHARES:
            await self._ask(crew, share)
            if enough(reading := self._reread()):
                return reading
        idle = crew.dispensable()
        for key in idle[: max(0, len(idle) - keep)]:
            _log_unloaded(await crew.unload_idle(key))
            if enough(reading := self._reread()):
                return reading
        return reading

    async def _drop_spare(self, crew: Crew) -> bool:
        if is_gone := await crew.give_up_spare():
            logger.warning("memory: the spare worker is given up")
        return is_gone

    async def _ask(self, crew: Crew, share: Spare) -> None:
        freed = await crew.give_back(share)
        # Every interval of a long shortage asks anew, mostly in vain.
        urgency = logging.WARNING if freed else logging.DEBUG
        logger.log(urgency, "memory: workers gave back %d MiB of %s", freed // _MEBIBYTE, share)

    def _reread(self) -> Reading:
        if self._gauge is None:
            raise AssertionError("a guard without a gauge has nothing to relieve")
        self._last = self._gauge.read()
        level = self.thresholds.level(self._last)
        self._is_short = level >= Level.CRITICAL or (self._is_short and level > Level.CALM)
        return self._last

    def _tell(self, level: Level, reading: Reading) -> bool:
        """A line when the level changes, and only then; whether it has."""
        is_news = level is not self._level
        if is_news:
            urgency = logging.WARNING if level > Level.CALM else logging.INFO
            logger.log(
                urgency,
                "memory is %s: %.1f %% of %s in use (%s)",
                level.name.lower(),
                reading.percent,
                _gb(reading.total),
                reading.source,
            )
        self._level = level
        return is_news

    def _refusal(self, name: str, need: Need, reading: Reading, crew: Crew) -> NoRoom:
        promised = crew.promised()
        reading = min(reading.every, key=self._room)
        terms = [
            f"{_gb(need.total)} for it ({_gb(need.weights)} of weights, {_gb(need.context)} of context)",
            f"{_gb(reading.used)} in use",
            *([f"{_gb(promised)} promised to others"] if promised else []),
        ]
        whole = need.total + reading.used + promised
        held = ", ".join(crew.holders())
        return NoRoom(
            f"not enough memory to load {name}: {' + '.join(terms)} = {_gb(whole)}, and "
            f"{_gb(self._allowed(reading))} is the most ({self.thresholds.critical:g} % of {_gb(reading.total)})"
            + (f"; held by {held}" if held else ""),
            setting="MLX_API_MEMORY_CRITICAL",
            retry_after=self._patience,
        )


def _log_unloaded(name: str) -> None:
    if name:
        logger.warning("memory: %s was idle and is unloaded", name)


def _gb(size: float) -> str:
    return f"{size / GIGABYTE:.2f} GB"
