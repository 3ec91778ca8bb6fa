"""Which workers live. The only writer of that state: it starts, shares, unloads and replaces them."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from mlx_ollama import gotime
from mlx_ollama.errors import LoadFailed, MlxOllamaError, NoRoom, OutOfMemory, ShuttingDown
from mlx_ollama.link import WorkerLink
from mlx_ollama.memory.estimate import Demand, Estimator
from mlx_ollama.memory.guard import MemoryGuard
from mlx_ollama.models.store import StoredModel
from mlx_ollama.policies.eviction import Eviction
from mlx_ollama.protocol import Ready
from mlx_ollama.recovery import Recovery
from mlx_ollama.resident import Lease, Resident, Tally
from mlx_ollama.residents import Residents, SpareWorker

logger = logging.getLogger(__name__)

Prepare = Callable[[StoredModel], Awaitable[None]]
Start = Callable[[StoredModel], Awaitable[WorkerLink]]


class Pool:
    """The residents, and the way in: what is asked for is loaded once, leased to all who ask, and watched.

    `prepare` sees to it that a model's directory is there, `start` makes a worker for it. `keep_alive` (seconds) counts
    where no request has said otherwise; `load_timeout` is in seconds. `guard` is asked for room, `eviction` for the
    order in which idle models make it; before them goes `spare`, the worker that has none. `recovery` says when what
    has died or failed is started again.
    """

    def __init__(
        self,
        prepare: Prepare,
        start: Start,
        *,
        keep_alive: float,
        load_timeout: float,
        guard: MemoryGuard,
        estimator: Estimator,
        eviction: Eviction,
        spare: SpareWorker | None = None,
        recovery: Recovery | None = None,
    ) -> None:
        self._prepare = prepare
        self._start = start
        self._keep_alive = keep_alive
        self._load_timeout = load_timeout
        self._guard = guard
        self._estimator = estimator
        self.tally = Tally()
        self._residents = Residents(eviction, self.tally, spare)
        self._recovery = recovery or Recovery()
        self._chores: set[asyncio.Task[None]] = set()
        self._refusal: MlxOllamaError | None = None

    @asynccontextmanager
    async def lease(
        self, model: StoredModel, keep_alive: float | None, demand: Demand | None = None
    ) -> AsyncIterator[Lease]:
        """Use a model, loading it first if need be; several leases share one load and one worker.

        `keep_alive` None leaves the resident's own as it is (wire-spec 3.4). `demand` is what the request is going to
        hold in the model's cache, None for nothing.

        Raises:
            LoadFailed: if the model cannot be loaded, `LoadPaused` if it is not tried for a while.
            OutOfMemory: if there is no room for it, or for the request.
            MlxOllamaError: what `fail_all` was given, from then on.
        """
        if self._refusal is not None:
            raise self._refusal
        resident = self._resident(model, demand)
        self._acquire(resident, model, keep_alive)
        claim = resident.claim(demand)
        try:
            link, ready = await self._loaded(resident)
            await self._guard.admit(self._residents, model.name.display)
            yield Lease(resident, link, ready, claim)
        except OutOfMemory as error:
            if not isinstance(error, NoRoom):
                self.clean_up(error.message)
            raise
        finally:
            resident.drop(claim)
            self._release(resident, model)

    def expire(self, model: StoredModel) -> None:
        """Unload a model as soon as nobody uses it; quiet if it is not loaded."""
        resident = self._residents.find(model.weights_digest)
        if resident is not None:
            resident.keep_alive = 0
            self._residents.settle(resident, "request")

    def replace(self, resident: Resident) -> bool:
        """Have a fresh worker take the place of an idle one; False if it is not idle, or not here, any more.

        The model goes on being loaded: whoever asks for it meanwhile waits, and its keep-alive is what it was. The old
        weights go before the new ones come.
        """
        old = resident.link
        is_idle = resident.is_idle and self._residents.is_here(resident)
        if self._refusal is not None or old is None or not (is_idle and old.alive):
            return False
        self._residents.forget(resident)
        self._residents.stop(resident, old)
        self.tally.replaced += 1
        fresh = resident.fresh()
        # Its clock is set once it is loaded; if that fails, it is not here any more.
        loading = self._begin(fresh, Demand(resident.context_length))
        loading.add_done_callback(lambda _: self._residents.settle(fresh, "keep_alive"))
        return True

    def residents(self) -> list[Resident]:
        """Everything that is loaded, the latest to expire first (wire-spec 5.4)."""
        return self._residents.loaded()

    def loading(self) -> list[Resident]:
        """Everything that is still being loaded."""
        return [resident for resident in self._residents.all() if resident.ready is None]

    def fail_all(self, error: MlxOllamaError) -> None:
        """Give up every request that is under way, those that wait for a load too, and take no more."""
        self._refusal = error
        for resident in self._residents.all():
            if resident.ready is None:
                self._residents.unload(resident, "shutdown")
            elif resident.link is not None:
                resident.link.fail(error)

    def clean_up(self, cause: str) -> None:
        """Memory has run out: have everything go that is idle, as soon as whoever found out has left."""
        self._chore(self._guard.clean_up(self._residents, cause))

    async def watch_memory(self) -> None:
        """Let the guard do its work, for ever."""
        await self._guard.watch(self._residents)

    async def close(self) -> None:
        """End every worker and wait until they are gone; none is started any more."""
        self._refusal = self._refusal or ShuttingDown()
        for resident in self._residents.all():
            self._residents.unload(resident, "shutdown")
        while pending := [*self._chores, *self._residents.stops()]:
            await asyncio.wait(pending)

    def _resident(self, model: StoredModel, demand: Demand | None) -> Resident:
        found = self._residents.find(model.weights_digest)
        # What is still loading is shared, whatever has become of its worker: the load knows what to do about it.
        if found is not None and (found.ready is None or found.link is None or found.link.alive):
            return found
        if found is not None and found.link is not None:
            # Its socket is closed, but its process may still hold the weights.
            self._residents.stop(found, found.link)
            self._residents.forget(found)
            self._mourn(found)
        self._recovery.admit(model.weights_digest, model.name.display)
        resident = Resident(model, self._keep_alive, is_restart=self._recovery.is_restart(model.weights_digest))
        self._begin(resident, demand)
        return resident

    def _begin(self, resident: Resident, demand: Demand | None) -> "asyncio.Task[Ready]":
        self._residents.add(resident)
        loading = resident.loading = asyncio.create_task(self._load(resident, demand))
        # If every caller has left, nobody is told of a failure; it is logged all the same.
        loading.add_done_callback(lambda load: load.cancelled() or load.exception())
        return loading

    async def _load(self, resident: Resident, demand: Demand | None) -> Ready:
        try:
            await self._pause(resident)
            # A predecessor's memory must be free before the same weights come in again.
            await self._residents.stopped(resident.key)
            await self._prepare(resident.model)
            await self._reserve(resident, demand)
            began = time.monotonic()
            resident.link = await self._start(resident.model)
            resident.ready = await resident.link.loaded(self._load_timeout)
        except Exception as error:
            logger.warning("%s cannot be loaded: %s", resident.name, error)
            self._count_failure(resident, error)
            if self._lose(resident) and not isinstance(error, OutOfMemory) and self._recovery.forgives(resident.key):
                # Whoever waits for it need not know that it took two workers.
                resident.is_restart, resident.promised = True, 0
                return await self._load(resident, demand)
            self._residents.forget(resident)
            if isinstance(error, OSError):
                raise LoadFailed(f"no worker can be started: {error}") from error
            raise
        self._arrived(resident, resident.ready, time.monotonic() - began)
        self._chore(self._watch(resident, resident.link))
        return resident.ready

    def _lose(self, resident: Resident) -> bool:
        """Have the worker end that has not come up; whether it has died, which nobody asked of it."""
        link, resident.link = resident.link, None
        if link is None:
            return False
        if fell := link.fell:
            self._mourn(resident)
        self._residents.stop(resident, link)
        return fell

    async def _pause(self, resident: Resident) -> None:
        if pause := self._recovery.pause(resident.key):
            logger.warning("%s has lost its workers repeatedly: the next is started in %.1f s", resident.name, pause)
            await asyncio.sleep(pause)

    async def _reserve(self, resident: Resident, demand: Demand | None) -> None:
        def promise(size: int) -> None:
            resident.promised = size
            # Those that are here make room before this one comes.
            self._residents.share_out()

        need = self._estimator.need(resident.model, demand)
        await self._guard.reserve(self._residents, resident.name, need, promise)

    def _arrived(self, resident: Resident, ready: Ready, seconds: float) -> None:
        """It is loaded: what was promised is now in use, and its worker has told where numbers are kept."""
        logger.info("%s loaded in %.2f s", resident.name, seconds)
        self._recovery.started(resident.key)
        self._estimator.learn(ready.device)
        resident.promised = 0
        self._residents.share_out()
        resident.token_bytes = self._estimator.token_bytes(resident.model)
        resident.load_seconds = seconds
        if resident.user_count:
            resident.last_used = gotime.now()
        self.tally.loads += 1
        self.tally.load_seconds += seconds

    def _count_failure(self, resident: Resident, error: Exception) -> None:
        if isinstance(error, NoRoom):
            self.tally.refused_loads += 1
            return
        self.tally.failed_loads += 1
        # Want of memory passes, and has a guard of its own.
        if not isinstance(error, OutOfMemory):
            self._recovery.failed(resident.key, str(error))

    async def _loaded(self, resident: Resident) -> tuple[WorkerLink, Ready]:
        if resident.loading is None:
            raise LoadFailed("the model is being unloaded")
        try:
            # Others may wait for the same load: a caller who leaves must not end it.
            ready = await asyncio.shield(resident.loading)
        except asyncio.CancelledError:
            if resident.loading.cancelled():
                raise self._refusal or LoadFailed("the model is being unloaded") from None
            raise
        if resident.link is None:
            raise LoadFailed("the model worker is gone")
        return resident.link, ready

    def _acquire(self, resident: Resident, model: StoredModel, keep_alive: float | None) -> None:
        resident.users[model.name.display] += 1
        resident.use_count += 1
        resident.last_used = gotime.now()
        if keep_alive is not None:
            resident.keep_alive = keep_alive
        if resident.expiry is not None:
            resident.expiry.cancel()
            resident.expiry = None

    def _release(self, resident: Resident, model: StoredModel) -> None:
        # Names without requests are dropped, so that a long life with many names leaves no trail.
        resident.users = +(resident.users - Counter({model.name.display: 1}))
        resident.idle_since = time.monotonic()
        resident.last_used = gotime.now()
        self._residents.settle(resident, "keep_alive")

    async def _watch(self, resident: Resident, link: WorkerLink) -> None:
        await link.died.wait()
        if self._residents.is_here(resident):
            logger.error("the worker of %s is gone", resident.name)
            self._mourn(resident)
        self._residents.forget(resident)

    def _mourn(self, resident: Resident) -> None:
        """Nobody ended its worker: whoever loads the same weights next restarts it."""
        self._recovery.died(resident.key)
        self.tally.deaths += 1

    def _chore(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)
