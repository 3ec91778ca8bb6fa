"""Which workers live. The only writer of that state: it starts, shares, unloads and replaces them."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mlx_ollama.durations import FOREVER_SECONDS
from mlx_ollama.errors import LoadFailed, MlxOllamaError
from mlx_ollama.link import WorkerLink
from mlx_ollama.models.store import StoredModel
from mlx_ollama.protocol import Ready

logger = logging.getLogger(__name__)

Start = Callable[[StoredModel], Awaitable[WorkerLink]]


@dataclass
class Resident:
    """A model that is loaded or loading. Names that share weights share one; `model` is whose request began it.

    `keep_alive` is in seconds, `idle_since` in seconds of the monotonic clock, None while in use or never used.
    """

    model: StoredModel
    keep_alive: float
    users: int = 0
    idle_since: float | None = None
    context_length: int = 0
    link: WorkerLink | None = None
    ready: Ready | None = None
    loading: "asyncio.Task[Ready] | None" = None
    expiry: asyncio.TimerHandle | None = field(default=None, repr=False)

    def expires_in(self, now: float) -> float:
        """Seconds until it is unloaded if nothing happens; a full term while it is in use for the first time."""
        return self.keep_alive if self.idle_since is None else self.idle_since + self.keep_alive - now


@dataclass(frozen=True)
class Lease:
    """The right to use a loaded model until the block ends."""

    resident: Resident
    link: WorkerLink
    ready: Ready


class Pool:
    """Residents by the digest of their weights.

    `start` makes a worker for a model; `keep_alive` (seconds) counts where no request has said otherwise;
    `load_timeout` is in seconds.
    """

    def __init__(self, start: Start, *, keep_alive: float, load_timeout: float) -> None:
        self._start = start
        self._keep_alive = keep_alive
        self._load_timeout = load_timeout
        self._residents: dict[str, Resident] = {}
        self._chores: set[asyncio.Task[None]] = set()
        self._stopping: dict[str, asyncio.Task[None]] = {}
        self._refusal: MlxOllamaError | None = None

    @asynccontextmanager
    async def lease(self, model: StoredModel, keep_alive: float | None) -> AsyncIterator[Lease]:
        """Use a model, loading it first if need be; several leases share one load and one worker.

        `keep_alive` None leaves the resident's own as it is (wire-spec 3.4).

        Raises:
            LoadFailed: if the model cannot be loaded.
            MlxOllamaError: what `fail_all` was given, from then on.
        """
        if self._refusal is not None:
            raise self._refusal
        resident = self._resident(model)
        self._acquire(resident, keep_alive)
        try:
            link, ready = await self._loaded(resident)
            yield Lease(resident, link, ready)
        finally:
            self._release(resident)

    def expire(self, model: StoredModel) -> None:
        """Unload a model as soon as nobody uses it; quiet if it is not loaded."""
        resident = self._residents.get(model.weights_digest)
        if resident is not None:
            resident.keep_alive = 0
            self._settle(resident)

    def residents(self) -> list[Resident]:
        """Everything that is loaded, the latest to expire first (wire-spec 5.4)."""
        now = time.monotonic()
        loaded = [resident for resident in self._residents.values() if resident.ready is not None]
        return sorted(loaded, key=lambda resident: resident.expires_in(now), reverse=True)

    def fail_all(self, error: MlxOllamaError) -> None:
        """Give up every request that is under way, those that wait for a load too, and take no more."""
        self._refusal = error
        for resident in list(self._residents.values()):
            if resident.ready is None:
                self._unload(resident)
            elif resident.link is not None:
                resident.link.fail(error)

    async def close(self) -> None:
        """End every worker and wait until they are gone."""
        for resident in list(self._residents.values()):
            self._unload(resident)
        while self._chores or self._stopping:
            await asyncio.wait([*self._chores, *self._stopping.values()])

    def _resident(self, model: StoredModel) -> Resident:
        found = self._residents.get(model.weights_digest)
        if found is not None and (found.link is None or found.link.alive):
            return found
        if found is not None and found.link is not None:
            # Its socket is closed, but its process may still hold the weights.
            self._stop(found, found.link)
        resident = Resident(model, self._keep_alive)
        self._residents[model.weights_digest] = resident
        resident.loading = asyncio.create_task(self._load(resident))
        # If every caller has left, nobody is told of a failure; it is logged all the same.
        resident.loading.add_done_callback(lambda load: load.cancelled() or load.exception())
        return resident

    async def _load(self, resident: Resident) -> Ready:
        key = resident.model.weights_digest
        try:
            if (predecessor := self._stopping.get(key)) is not None:
                # Its memory must be free before the same weights come in again.
                await asyncio.shield(predecessor)
            began = time.monotonic()
            resident.link = await self._start(resident.model)
            resident.ready = await resident.link.loaded(self._load_timeout)
        except Exception as error:
            self._forget(resident)
            if resident.link is not None:
                self._stop(resident, resident.link)
            logger.warning("%s cannot be loaded: %s", resident.model.name.display, error)
            if isinstance(error, OSError):
                raise LoadFailed(f"no worker can be started: {error}") from error
            raise
        logger.info("%s loaded in %.2f s", resident.model.name.display, time.monotonic() - began)
        self._chore(self._watch(resident, resident.link))
        return resident.ready

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

    def _acquire(self, resident: Resident, keep_alive: float | None) -> None:
        resident.users += 1
        if keep_alive is not None:
            resident.keep_alive = keep_alive
        if resident.expiry is not None:
            resident.expiry.cancel()
            resident.expiry = None

    def _release(self, resident: Resident) -> None:
        resident.users -= 1
        resident.idle_since = time.monotonic()
        self._settle(resident)

    def _settle(self, resident: Resident) -> None:
        """Set the clock of an idle resident, or unload it if its time is up."""
        if resident.users or self._residents.get(resident.model.weights_digest) is not resident:
            return
        if resident.expiry is not None:
            resident.expiry.cancel()
        left = resident.expires_in(time.monotonic())
        if left <= 0 and resident.loading is not None and resident.loading.done():
            self._unload(resident)
        elif left < FOREVER_SECONDS / 2:
            loop = asyncio.get_running_loop()
            resident.expiry = loop.call_later(max(left, 0.1), self._settle, resident)

    def _unload(self, resident: Resident) -> None:
        self._forget(resident)
        if resident.loading is not None and not resident.loading.done():
            resident.loading.cancel()
        if resident.link is not None:
            logger.info("%s unloaded", resident.model.name.display)
            self._stop(resident, resident.link)

    def _stop(self, resident: Resident, link: WorkerLink) -> None:
        """End a worker; whoever loads the same weights next waits until they are free."""
        key = resident.model.weights_digest
        stopping = self._stopping[key] = asyncio.create_task(link.stop())
        stopping.add_done_callback(lambda _: self._stopped(key, stopping))

    def _stopped(self, key: str, stopping: "asyncio.Task[None]") -> None:
        if self._stopping.get(key) is stopping:
            del self._stopping[key]

    def _forget(self, resident: Resident) -> None:
        key = resident.model.weights_digest
        if self._residents.get(key) is resident:
            del self._residents[key]
        if resident.expiry is not None:
            resident.expiry.cancel()
            resident.expiry = None

    async def _watch(self, resident: Resident, link: WorkerLink) -> None:
        await link.died.wait()
        if self._residents.get(resident.model.weights_digest) is resident:
            logger.error("the worker of %s is gone", resident.model.name.display)
        self._forget(resident)

    def _chore(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)
