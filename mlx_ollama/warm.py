"""A worker that has everything but a model, so that a load costs its weights alone."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from mlx_ollama.link import WorkerLink

logger = logging.getLogger(__name__)

Start = Callable[[], Awaitable[WorkerLink]]


class WarmWorker:
    """Keeps a worker warm as long as one `is_wanted`; else workers are made when they are needed. `start` makes one.

    After a load the next one waits for `pause` seconds: the first answer of the model wants the processor, too.
    """

    def __init__(self, start: Start, is_wanted: Callable[[], bool], *, pause: float = 0.0) -> None:
        self._start = start
        self._is_wanted = is_wanted
        self._pause = pause
        self._warm: WorkerLink | None = None
        self._refilling: asyncio.Task[None] | None = None

    async def take(self) -> WorkerLink:
        """A worker without a model: the warm one if it lives. The next one is warmed when this one has its model.

        Raises:
            OSError: if no process can be started.
        """
        taken, self._warm = self._warm, None
        if taken is None or not taken.alive:
            taken = await self._start()
        self.refill(after=taken)
        return taken

    def refill(self, after: WorkerLink | None = None) -> None:
        """Warm a worker unless there is one, not before `after` is done with loading."""
        is_here = self._warm is not None and self._warm.alive
        if self._is_wanted() and not is_here and (self._refilling is None or self._refilling.done()):
            self._refilling = asyncio.create_task(self._refill(after))

    async def give_up(self) -> bool:
        """End the warm worker and wait until its memory is free; whether there was one."""
        given, self._warm = self._warm, None
        if given is not None:
            await given.stop()
        return given is not None

    async def close(self) -> None:
        """End the warm worker; no other one will be made."""
        self._is_wanted = lambda: False
        if self._refilling is not None:
            self._refilling.cancel()
            await asyncio.wait([self._refilling])
        await self.give_up()

    async def _refill(self, after: WorkerLink | None) -> None:
        if after is not None:
            await after.settled()
            await asyncio.sleep(self._pause)
        if not self._is_wanted():
            return
        try:
            self._warm = await self._start()
        except OSError as error:
            # The next load will find out whether it can be made, and tells whoever asked.
            logger.warning("no spare worker can be started: %s", error)
        if not self._is_wanted():
            await self.give_up()
