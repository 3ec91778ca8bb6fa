"""A whole gateway within the test, with real workers, for what only an injected gauge can bring about."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from mlx_ollama.app import Gateway, create_gateway
from mlx_ollama.memory.gauge import Reading
from mlx_ollama.settings import load

PATIENCE_SECONDS = 30.0


class Dial:
    """A gauge that shows what a test sets it to."""

    def __init__(self, percent: float = 10.0, total: int = 100 << 30) -> None:
        self.percent, self.total = percent, total
        self.oom_kills = 0

    def read(self) -> Reading:
        return Reading(int(self.total * self.percent / 100), self.total)

    def kills(self) -> int:
        return self.oom_kills


@asynccontextmanager
async def running(home: Path, dial: Dial, **settings: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Gateway]]:
    """A client of a gateway that has started, and the gateway; its workers end with the block."""
    flags = {"home": str(home), "profile": "ollama", "spare": False, "memory_interval": 0.05, **settings}
    gateway = create_gateway(load(flags, {}).settings, gauge=dial)
    transport = httpx.ASGITransport(gateway.app)
    async with (
        gateway.app.router.lifespan_context(gateway.app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost:1", timeout=120) as client,
    ):
        yield client, gateway


async def until(condition: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Poll until a condition holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (found := await condition()):  # noqa: ASYNC110 - it is the gateway that is watched, over HTTP
            await asyncio.sleep(0.02)
    assert found, what
    return found
