"""Replaces idle workers whose memory has climbed, once they have given back what they can."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from mlx_ollama.link import WorkerLink
from mlx_ollama.memory.footprint import Footprint
from mlx_ollama.memory.guard import SHARES
from mlx_ollama.resident import Resident

logger = logging.getLogger(__name__)


class Home(Protocol):
    """Those who have workers: the pool."""

    def residents(self) -> list[Resident]:
        """Everything that is loaded."""
        ...

    def replace(self, resident: Resident) -> bool:
        """Have a fresh worker take the place of an idle one; whether it was idle still."""
        ...


class Recycler:
    """Weighs workers while nobody uses them.

    A worker's own bytes are its footprint less what it could give back, so that remembered prompts are no growth.
    `percent` is how much they may grow beyond what they were after its first answers (memory/growth.py), 0 for any.
    `footprint` None, which is where nobody can tell, switches it off; `interval` is in seconds.
    """

    def __init__(self, home: Home, footprint: Footprint | None, *, percent: float, interval: float) -> None:
        self._home = home
        self._footprint = footprint
        self._percent = percent
        self._interval = interval

    async def watch(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Look for ever, once an interval."""
        while self._footprint is not None and self._percent > 0:
            for resident in self._home.residents():
                try:
                    await self._look(resident, self._footprint)
                # Whatever the system does not tell of one process, the others are looked at.
                except Exception:
                    logger.exception("%s could not be weighed", resident.name)
            await sleep(self._interval)

    async def _look(self, resident: Resident, footprint: Footprint) -> None:
        link, weighed, uses = resident.link, resident.weighed, resident.use_count
        if link is None or not resident.is_idle or not weighed.is_due(uses):
            return
        own, lost = await _weigh(link, footprint), 0
        if own is not None:
            weighed.learn(uses, own)
        for share in SHARES:
            if own is None or not weighed.is_beyond(own, self._percent):
                break
            # Whoever has come in the meantime shall find the prompts that are remembered; there will be another time.
            if resident.user_count:
                return
            released = await link.release(share)
            lost = released.freed if released else 0
            logger.info("%s is idle and large: its worker gave back %d MiB of %s", resident.name, lost >> 20, share)
            own = await _weigh(link, footprint)
        if own is None:
            return
        weighed.looked = uses
        at_first = weighed.at_first
        logger.debug("%s: its worker holds %d KiB of its own, at first %d", resident.name, own >> 10, at_first >> 10)
        if weighed.is_beyond(own, self._percent) and self._home.replace(resident):
            logger.warning(
                "%s is idle and gets a fresh worker: its own had grown to %d MiB, from %d MiB after its first "
                "answers; the prompts that it remembered (%d MiB) are lost",
                resident.name,
                own >> 20,
                at_first >> 20,
                lost >> 20,
            )


async def _weigh(link: WorkerLink, footprint: Footprint) -> int | None:
    """A worker's own bytes; None if it is busy or gone."""
    released = await link.release(None)
    held = footprint(link.process.pid)
    return None if released is None or held is None else held - released.left
