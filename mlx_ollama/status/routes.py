"""The paths on which an operator looks."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from mlx_ollama.routes import Resource
from mlx_ollama.status import health, metrics
from mlx_ollama.status.metrics import Metrics
from mlx_ollama.status.vitals import Monitor

JSON = "application/json; charset=utf-8"


def status_resources(monitor: Monitor, figures: Metrics, count_models: Callable[[], int]) -> dict[str, Resource]:
    """What answers there. `count_models` looks into the store, so it is asked in a thread."""

    async def whole(request: Request) -> Response:
        total = await asyncio.to_thread(count_models)
        vitals = monitor.vitals()
        return _json(health.health(vitals, total), health.code_of(vitals))

    async def short(request: Request) -> Response:
        vitals = monitor.vitals()
        return _json(health.short(vitals), health.code_of(vitals))

    async def figures_as_text(request: Request) -> Response:
        return Response(figures.text(), headers={"content-type": metrics.CONTENT_TYPE})

    answers = {"/health": whole, "/status": short, "/metrics": figures_as_text}
    return {path: Resource({"HEAD": answer, "GET": answer}) for path, answer in answers.items()}


def _json(body: dict[str, Any], code: int) -> Response:
    # A probe must never be answered from a cache.
    return Response(orjson.dumps(body), code, headers={"content-type": JSON, "cache-control": "no-store"})
