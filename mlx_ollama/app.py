"""The composition root: what the parts are, and in which order a request meets the policies."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.middleware import Middleware

from mlx_ollama.doors import DECODERS, refuse_of
from mlx_ollama.durations import keep_alive_seconds
from mlx_ollama.library import Library, ready
from mlx_ollama.link import WorkerLink
from mlx_ollama.models.store import Store, StoredModel
from mlx_ollama.policies.access_log import AccessLog
from mlx_ollama.policies.canonical import Canonical
from mlx_ollama.policies.decode import Decode
from mlx_ollama.policies.disconnect import CancelOnDisconnect
from mlx_ollama.policies.drain import Drain, InFlight
from mlx_ollama.policies.errors import Errors
from mlx_ollama.policies.ignored import IgnoredOptions
from mlx_ollama.policies.origin import Origin
from mlx_ollama.pool import Pool
from mlx_ollama.routes import (
    NotFound,
    StreamKeepAlive,
    find,
    resources,
    routes,
    say_nothing,
    say_what_was_reused,
)
from mlx_ollama.service import Service
from mlx_ollama.settings import Settings
from mlx_ollama.store_routes import UPLOADS, store_resources


@dataclass(frozen=True)
class Gateway:
    """The application and the two parts of it that its server needs for a graceful end."""

    app: Starlette
    pool: Pool
    in_flight: InFlight


def create_gateway(settings: Settings) -> Gateway:
    """Everything of the gateway process, put together; nothing runs yet."""

    async def start(model: StoredModel) -> WorkerLink:
        await asyncio.to_thread(ready, model)
        return await WorkerLink.start(
            model.directory,
            device=settings.device,
            prefill_slice=settings.prefill_slice,
            log_level=settings.log_level,
            prompt_cache_bytes=settings.prompt_cache_bytes,
            prompt_cache_chooser=settings.prompt_cache_chooser,
        )

    pool = Pool(start, keep_alive=keep_alive_seconds(settings.keep_alive), load_timeout=settings.load_timeout)
    library = Library(Store(settings.models, settings.converted))
    service = Service(library, pool, default_context=settings.context_length)
    in_flight = InFlight()
    heartbeats = StreamKeepAlive(settings.stream_keep_alive, ndjson=settings.ndjson_keep_alive)
    describe = say_what_was_reused if settings.debug else say_nothing
    table = {
        **resources(service, library, heartbeats, describe),
        **store_resources(library, body_timeout=settings.body_timeout),
    }

    def allow_of(path: str) -> str | None:
        resource = find(table, path)
        return resource.allow if resource else None

    # The order in which a request meets them, outermost first.
    policies = [
        Middleware(AccessLog),
        Middleware(Origin, origins=settings.origins, bind_host=settings.host, allow_of=allow_of),
        Middleware(Errors, refuse_of=refuse_of),
        Middleware(Decode, decoders=DECODERS, max_body=settings.max_body, timeout=settings.body_timeout),
        Middleware(Canonical, enabled=settings.canonical),
        Middleware(IgnoredOptions, strict=settings.strict),
        Middleware(Drain, in_flight=in_flight),
        Middleware(CancelOnDisconnect, uploads=UPLOADS),
    ]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await asyncio.to_thread(library.store.sweep)
        yield
        await pool.close()

    app = Starlette(routes=routes(table), middleware=policies, lifespan=lifespan)
    app.router.redirect_slashes = False
    app.router.default = NotFound(table)
    return Gateway(app, pool, in_flight)


def create_app(settings: Settings) -> Starlette:
    """The ASGI application, for any server that speaks ASGI."""
    return create_gateway(settings).app
