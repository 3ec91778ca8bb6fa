"""The composition root: what the parts are, and in which order a request meets the policies."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.middleware import Middleware

from mlx_ollama.connections import Connections
from mlx_ollama.doors import DECODERS, DOORS, last_words_of, refuse_of
from mlx_ollama.durations import keep_alive_seconds
from mlx_ollama.jobs import in_threads
from mlx_ollama.library import library_of, ready
from mlx_ollama.link import WorkerLink
from mlx_ollama.memory.estimate import Estimator
from mlx_ollama.memory.footprint import system_footprint
from mlx_ollama.memory.gauge import MemoryGauge, system_gauge
from mlx_ollama.memory.guard import MemoryGuard, Thresholds
from mlx_ollama.models.store import StoredModel
from mlx_ollama.peers import Peers
from mlx_ollama.policies.access_log import AccessLog
from mlx_ollama.policies.canonical import Canonical
from mlx_ollama.policies.concurrency import Concurrency, Slots
from mlx_ollama.policies.deadline import Deadline
from mlx_ollama.policies.decode import Decode
from mlx_ollama.policies.disconnect import CancelOnDisconnect
from mlx_ollama.policies.drain import Drain, InFlight
from mlx_ollama.policies.errors import Errors
from mlx_ollama.policies.eviction import chooser
from mlx_ollama.policies.fallback import Fallback
from mlx_ollama.policies.ignored import IgnoredOptions
from mlx_ollama.policies.in_flight import Crowd, InFlightCap
from mlx_ollama.policies.keys import CREDENTIALS, Keys
from mlx_ollama.policies.measure import Figures, Measure
from mlx_ollama.policies.merge import MergedLists
from mlx_ollama.policies.origin import Origin
from mlx_ollama.policies.plugins import OwnPolicy, with_own
from mlx_ollama.policies.rate_limit import RateLimit, Rates
from mlx_ollama.policies.shortage import Shortage
from mlx_ollama.policies.slow_readers import SlowReaders
from mlx_ollama.policy import look_in
from mlx_ollama.pool import Pool
from mlx_ollama.pulse import Care
from mlx_ollama.recovery import Recovery
from mlx_ollama.recycling import Recycler
from mlx_ollama.routes import (
    NotFound,
    Resource,
    StreamKeepAlive,
    find,
    resources,
    route_of,
    routes,
    say_nothing,
    say_what_was_reused,
)
from mlx_ollama.service import Service
from mlx_ollama.settings import Settings, load
from mlx_ollama.status.metrics import Metrics
from mlx_ollama.status.routes import status_resources
from mlx_ollama.status.vitals import Monitor
from mlx_ollama.store_routes import UPLOADS, store_resources
from mlx_ollama.supervision import Backoff, CircuitBreaker
from mlx_ollama.upstream import Upstream
from mlx_ollama.warm import WarmWorker

OVERLOADED = {
    "guarded": "Server overloaded. Max {most} concurrent requests",
    "ollama": "server busy, please try again.  maximum pending requests exceeded",
}
"""What a request is told that finds no room, by profile; Ollama's own words have two blanks (wire-spec 9.1)."""


@dataclass(frozen=True)
class Limits:
    """What the policies count and measure."""

    slots: Slots
    rates: Rates
    connections: Connections


@dataclass(frozen=True)
class Gateway:
    """The application, and the parts of it that its server needs: for connections, and for a graceful end."""

    app: Starlette
    pool: Pool
    in_flight: InFlight
    limits: Limits
    upstream: Upstream | None
    monitor: Monitor


def create_gateway(settings: Settings, own: Sequence[OwnPolicy] = (), gauge: MemoryGauge | None = None) -> Gateway:
    """Everything of the gateway process, put together; nothing runs yet. `gauge` is this machine's if it is None.

    Raises:
        SettingsError: for policies of the user's that cannot be made, those of the settings and then `own`.
        NotAChooser: if `eviction` names none.
    """
    guard = _guard(settings, gauge or system_gauge())
    warm = _warm(settings, guard)
    pool = _pool(settings, guard, warm)
    recycler = Recycler(pool, system_footprint(), percent=settings.worker_growth, interval=settings.memory_interval)
    library, in_flight = library_of(settings), InFlight()
    limits = _limits(settings)
    monitor = Monitor(pool, guard, limits.slots, limits.rates, lambda: in_flight.phase)
    metrics = Metrics(monitor)
    service = Service(library, pool, metrics, default_context=settings.context_length)
    heartbeats = StreamKeepAlive(settings.stream_keep_alive, ndjson=settings.ndjson_keep_alive)
    describe = say_what_was_reused if settings.debug else say_nothing
    table = {
        **resources(service, library, heartbeats, describe),
        **store_resources(library, body_timeout=settings.body_timeout),
        **status_resources(monitor, metrics, lambda: sum(1 for _ in library.store.names())),
    }
    upstream = _upstream(settings)
    policies = _policies(settings, table, in_flight, limits, upstream, figures=metrics, alarm=pool.clean_up)
    if settings.policies:
        look_in(settings.home)
    for users in (settings.policies, own):
        policies = with_own(policies, users, usually_before=MergedLists.__name__)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await asyncio.to_thread(library.store.sweep)
        watching = [asyncio.create_task(watch) for watch in (pool.watch_memory(), recycler.watch())]
        in_flight.opened = True
        warm.refill()
        preloading = asyncio.create_task(service.preload(settings.preload))
        yield
        for task in (*watching, preloading):
            task.cancel()
        await pool.close()
        await warm.close()
        if upstream is not None:
            await upstream.close()

    app = Starlette(routes=routes(table), middleware=policies, lifespan=lifespan)
    app.router.redirect_slashes = False
    app.router.default = NotFound(table)
    # Made now and not with the first request, so that a policy that cannot be made stops the start.
    app.middleware_stack = app.build_middleware_stack()
    return Gateway(app, pool, in_flight, limits, upstream, monitor)


def _limits(settings: Settings) -> Limits:
    slots = Slots(
        settings.max_concurrent,
        queue=settings.queue,
        patience=settings.queue_timeout,
        message=OVERLOADED[settings.profile],
    )
    return Limits(
        slots=slots,
        rates=Rates(settings.rate_limit, settings.rate_window),
        connections=Connections(),
    )


def _warm(settings: Settings, guard: MemoryGuard) -> WarmWorker:
    async def start() -> WorkerLink:
        return await WorkerLink.start(
            device=settings.device,
            prefill_slice=settings.prefill_slice,
            log_level=settings.log_level,
            prompt_cache_bytes=settings.prompt_cache_bytes,
            prompt_cache_chooser=settings.prompt_cache_chooser,
            home=settings.home,
            care=Care(settings.worker_heartbeat, settings.worker_patience, settings.worker_grace),
            verdict=guard.verdict,
        )

    return WarmWorker(start, lambda: settings.spare and not guard.is_short, pause=settings.spare_pause)


def _pool(settings: Settings, guard: MemoryGuard, warm: WarmWorker) -> Pool:
    async def prepare(model: StoredModel) -> None:
        # A load that is given up ends what it began.
        async with aclosing(in_threads(ready(model))) as steps:
            async for _ in steps:
                pass

    async def start(model: StoredModel) -> WorkerLink:
        worker = await warm.take()
        worker.load(model.directory)
        return worker

    return Pool(
        prepare,
        start,
        keep_alive=keep_alive_seconds(settings.keep_alive),
        load_timeout=settings.load_timeout,
        guard=guard,
        estimator=Estimator(settings.device),
        eviction=chooser(settings.eviction, settings.home),
        spare=warm,
        recovery=Recovery(
            Backoff(settings.worker_backoff, settings.worker_backoff_most),
            lambda: CircuitBreaker(settings.worker_breaker, settings.worker_breaker_open),
        ),
    )


def _guard(settings: Settings, gauge: MemoryGauge | None) -> MemoryGuard:
    thresholds = Thresholds(
        float(settings.memory_warning), float(settings.memory_critical), float(settings.memory_emergency)
    )
    return MemoryGuard(gauge, thresholds, interval=settings.memory_interval, keep=settings.keep_count)


def _policies(
    settings: Settings,
    table: Mapping[str, Resource],
    in_flight: InFlight,
    limits: Limits,
    upstream: Upstream | None,
    *,
    figures: Figures,
    alarm: Callable[[str], None],
) -> list[Middleware]:
    """The order in which a request meets them, outermost first."""

    def allow_of(path: str) -> str | None:
        resource = find(table, path)
        return resource.allow if resource else None

    # Browsers ask before they send a header.
    key_header = ("X-Api-Key",) if settings.keys else ()
    return [
        Middleware(AccessLog, tell_id=settings.log_level == "debug"),
        Middleware(Measure, figures=figures, endpoint_of=lambda path: route_of(table, path)),
        Middleware(SlowReaders, seconds=settings.write_timeout, hang_up=limits.connections.hang_up),
        Middleware(Origin, origins=settings.origins, bind_host=settings.host, allow_of=allow_of, headers=key_header),
        Middleware(Errors, refuse_of=refuse_of),
        Middleware(Shortage, alarm=alarm),
        Middleware(Keys, keys=settings.keys),
        Middleware(InFlightCap, crowd=Crowd(limits.slots), paths=DOORS),
        Middleware(Decode, decoders=DECODERS, max_body=settings.max_body, timeout=settings.body_timeout),
        Middleware(Canonical, enabled=settings.canonical),
        Middleware(Drain, in_flight=in_flight),
        Middleware(RateLimit, rates=limits.rates, peers=Peers(settings.trusted_proxies)),
        Middleware(CancelOnDisconnect, uploads=UPLOADS),
        Middleware(Deadline, seconds=settings.timeout),
        # Users' own stand here, unless they name another place.
        Middleware(MergedLists, upstream=upstream),
        Middleware(Fallback, upstream=upstream, last_words_of=last_words_of),
        Middleware(IgnoredOptions, strict=settings.strict),
        Middleware(Concurrency, slots=limits.slots),
    ]


def _upstream(settings: Settings) -> Upstream | None:
    # Keys are for this server: where there are some, what a client shows to us is not shown to others.
    withheld = CREDENTIALS if settings.keys else ()
    return Upstream(settings.upstream, withheld=withheld) if settings.upstream else None


def create_app(settings: Settings | None = None, *, policies: Sequence[OwnPolicy] = ()) -> Starlette:
    """The ASGI application, for any server that speaks ASGI.

    Without `settings` it is set as the command is: by the TOML file and the environment. `policies` are your own:
    classes, `package.module:Class`, or `policy.Policy` where one has options or a place of its own.

    Raises:
        SettingsError: for settings or policies that cannot be used.
    """
    return create_gateway(load().settings if settings is None else settings, policies).app
