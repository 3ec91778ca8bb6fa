"""What is in memory, and how it leaves: by its keep-alive, at the guard's word, or because its worker has died."""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Protocol

from mlx_ollama.choosers import chosen
from mlx_ollama.durations import FOREVER_SECONDS
from mlx_ollama.link import WorkerLink
from mlx_ollama.memory.shares import shares_of
from mlx_ollama.policies.eviction import Eviction, LeastRecentlyUsed
from mlx_ollama.protocol import Spare
from mlx_ollama.resident import Resident, Tally

logger = logging.getLogger(__name__)


class SpareWorker(Protocol):
    """A worker that waits for a model (warm.py): memory that can be given up, and taken again."""

    async def give_up(self) -> bool: ...

    def refill(self) -> None: ...


class Residents:
    """The models that are loaded or loading, by the digest of their weights. The pool alone uses it.

    `eviction` says in which order idle models make room; `tally` counts what leaves. There is no lock: what is decided
    and done without an `await` in between is one step for everybody else. To the guard this is the `Crew`.
    """

    def __init__(self, eviction: Eviction, tally: Tally, spare: SpareWorker | None = None) -> None:
        self._eviction = eviction
        self._tally = tally
        self._spare = spare
        self._by_key: dict[str, Resident] = {}
        self._stopping: dict[str, asyncio.Task[None]] = {}

    def find(self, key: str) -> Resident | None:
        return self._by_key.get(key)

    def add(self, resident: Resident) -> None:
        self._by_key[resident.key] = resident

    def all(self) -> list[Resident]:
        return list(self._by_key.values())

    def loaded(self) -> list[Resident]:
        """Everything that is loaded, the latest to expire first (wire-spec 5.4)."""
        now = time.monotonic()
        loaded = [resident for resident in self._by_key.values() if resident.ready is not None]
        return sorted(loaded, key=lambda resident: resident.expires_in(now), reverse=True)

    def is_here(self, resident: Resident) -> bool:
        """Whether it has not been forgotten, or replaced by another."""
        return self._by_key.get(resident.key) is resident

    def settle(self, resident: Resident, reason: str) -> None:
        """Set the clock of an idle resident, or unload it if its time is up."""
        if resident.user_count or not self.is_here(resident):
            return
        if resident.expiry is not None:
            resident.expiry.cancel()
        left = resident.expires_in(time.monotonic())
        if left <= 0 and resident.loading is not None and resident.loading.done():
            self.unload(resident, reason)
        elif left < FOREVER_SECONDS / 2:
            loop = asyncio.get_running_loop()
            resident.expiry = loop.call_later(max(left, 0.1), self.settle, resident, reason)

    def unload(self, resident: Resident, reason: str) -> None:
        """Forget a resident and end its worker, whatever it is doing."""
        self.forget(resident)
        if resident.loading is not None and not resident.loading.done():
            resident.loading.cancel()
        if resident.link is not None:
            logger.info("%s unloaded (%s)", resident.name, reason)
            self._tally.unloads[reason] += 1
            self.stop(resident, resident.link)

    def stop(self, resident: Resident, link: WorkerLink) -> None:
        """End a worker; whoever loads the same weights next waits until they are free."""
        key = resident.key
        stopping = self._stopping[key] = asyncio.create_task(link.stop())
        stopping.add_done_callback(lambda _: self._stopped(key, stopping))

    async def stopped(self, key: str) -> None:
        """Wait until no worker holds these weights any more that was told to end."""
        if (stopping := self._stopping.get(key)) is not None:
            await asyncio.shield(stopping)

    def stops(self) -> Sequence["asyncio.Task[None]"]:
        """Workers that are on their way out."""
        return list(self._stopping.values())

    def forget(self, resident: Resident) -> None:
        if self.is_here(resident):
            del self._by_key[resident.key]
        if resident.expiry is not None:
            resident.expiry.cancel()
            resident.expiry = None
        self.share_out()

    def share_out(self) -> None:
        """Tell every worker on a GPU its share; to be done whenever models come or go."""
        for resident, share in shares_of(self.all()):
            if resident.link is not None:
                resident.link.grant(share)

    # What the guard may ask for (memory/guard.py:Crew).

    async def give_back(self, share: Spare) -> int:
        """Ask every worker for its spare bytes; how many came back."""
        links = [resident.link for resident in self.loaded() if resident.link is not None]
        answers = await asyncio.gather(*(link.release(share) for link in links))
        return sum(answer.freed for answer in answers if answer is not None)

    async def give_up_spare(self) -> bool:
        """End the worker that has no model; whether there was one."""
        return self._spare is not None and await self._spare.give_up()

    def renew_spare(self) -> None:
        """There is room for such a worker; nothing to do if there is one."""
        if self._spare is not None:
            self._spare.refill()

    def dispensable(self) -> Sequence[str]:
        """Idle models in the chooser's order. It sees facts and answers with an order: what it cannot do is unload."""
        now = time.monotonic()
        idle = [self._by_key[key].as_idle(now) for key in self.idle()]
        return chosen(self._eviction, idle, lambda model: model.key, otherwise=LeastRecentlyUsed())

    def idle(self) -> Sequence[str]:
        """All idle models; those in use or loading are not among them, so nobody can choose them."""
        return [resident.key for resident in self._by_key.values() if resident.is_idle]

    async def unload_idle(self, key: str) -> str:
        """Unload an idle model and wait until its memory is free; its name, empty if it is idle no more."""
        resident = self._by_key.get(key)
        if resident is None or not resident.is_idle:
            return ""
        self.unload(resident, "memory")
        await self.stopped(key)
        return resident.name

    def promised(self) -> int:
        """Bytes that are spoken for: of models that load, all of them; of answers, what they are still to take."""
        return sum(resident.promised + resident.growth for resident in self._by_key.values())

    def holders(self) -> Sequence[str]:
        """The models that are in memory, and how many requests each has."""
        return [f"{resident.name} ({resident.user_count} in use)" for resident in self.loaded()]

    def _stopped(self, key: str, stopping: "asyncio.Task[None]") -> None:
        if self._stopping.get(key) is stopping:
            del self._stopping[key]
