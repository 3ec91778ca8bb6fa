"""How a server is, in words for people."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from mlx_ollama.console.client import NoServer
from mlx_ollama.reaching import address, authorization
from mlx_ollama.settings import Settings

ANSWER_SECONDS = 10.0


class Unreachable(Exception):
    """The server does not say how it is; the message says what to do about it."""


@dataclass(frozen=True)
class Report:
    """What is to be shown, and whether all is well."""

    text: str
    is_healthy: bool


def report(settings: Settings, model: str | None) -> Report:
    url = address(settings.host, settings.port)
    headers = authorization(next(iter(settings.keys), ""))
    # A proxy of the environment has no business between a machine and itself.
    with httpx.Client(base_url=url, headers=headers, timeout=ANSWER_SECONDS, trust_env=False) as client:
        health = _health(client, url)
        if model is None:
            return Report("\n".join(_about_server(health, url)), health["status"] == "healthy")
        return _about_model(client, health, model)


def _health(client: httpx.Client, url: str) -> dict[str, Any]:
    try:
        answer = client.get("/health")
        health = answer.json()
    except httpx.TimeoutException as error:
        raise Unreachable(f"the server at {url} does not answer within {ANSWER_SECONDS:g} s") from error
    except httpx.TransportError as error:
        raise Unreachable(str(NoServer(url))) from error
    except ValueError:
        health = None
    if not (isinstance(health, dict) and health.get("service") == "mlx-ollama"):
        told = health.get("error") if isinstance(health, dict) else None
        raise Unreachable(f"what answers at {url} does not tell its health: {told or f'status {answer.status_code}'}")
    return health


def _about_server(health: Mapping[str, Any], url: str) -> Iterator[str]:
    yield f"{health['service']} {health['version']} at {url} is {health['status']}"
    waiting = health["queued_requests"]
    yield f"requests  {health['active_requests']} of {health['max_concurrent']} at once, {waiting} waiting"
    yield f"memory    {_memory(health['memory'])}"
    yield f"models    {health['models_cached']} in memory, {health['total_models']} in the store"
    most, window = health["rate_limit"]["max_per_window"], health["rate_limit"]["window_seconds"]
    yield f"limit     {f'{most} requests in {window:g} s for each address' if most else 'none'}"
    yield from (f"warning   {warning}" for warning in health["warnings"])
    if health["restarting_models"]:
        yield f"restarts  {', '.join(health['restarting_models'])}"
    if health["cached_models"]:
        yield ""
        yield from _table(health["cached_models"])


def _about_model(client: httpx.Client, health: Mapping[str, Any], model: str) -> Report:
    is_healthy = health["status"] == "healthy"
    rows = [row for row in health["cached_models"] if row["name"] == model]
    if rows:
        return Report("\n".join(_table(rows)), is_healthy)
    shown = client.post("/api/show", json={"model": model})
    if shown.is_error:
        raise Unreachable(str(shown.json().get("error", f"{model} cannot be shown")))
    return Report(f"{model} is not in memory; the next request loads it", is_healthy)


def _memory(memory: Mapping[str, Any]) -> str:
    if memory["used_percent"] is None:
        return f"not watched ({memory['guard']})"
    return (
        f"{memory['used_percent']:g} % of {memory['total_gb']:g} GB in use, {memory['available_gb']:g} GB free "
        f"(warning at {memory['warning_threshold']:g} %, critical at {memory['critical_threshold']:g} %)"
    )


def _table(models: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    rows = [("NAME", "STATE", "REQUESTS", "USES", "LAST USED", "LOADED IN"), *map(_row, models)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _row(model: Mapping[str, Any]) -> tuple[str, ...]:
    state = "loading" if model["is_loading"] else "busy" if model["active_requests"] else "idle"
    ago = datetime.now(UTC) - datetime.fromisoformat(model["last_used"])
    loaded_in = "" if model["is_loading"] else f"{model['load_time_seconds']:g} s"
    last_used = f"{max(0, round(ago.total_seconds()))} s ago"
    return model["name"], state, str(model["active_requests"]), str(model["use_count"]), last_used, loaded_in
