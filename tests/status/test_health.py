"""Health: every rule of its status as a function, and its fields over HTTP while a server is idle, busy and loading."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlx_ollama import __version__
from mlx_ollama.memory.gauge import Reading
from mlx_ollama.memory.guard import Thresholds
from mlx_ollama.status.health import code_of, health, status_of, warnings_of
from mlx_ollama.status.vitals import CachedModel, Vitals
from tests.support.cli import import_model
from tests.support.embedders import write_tiny_encoder
from tests.support.gateway import Dial, running
from tests.support.server import Server, clean_environment, serving, wait_until

FIELDS = {
    *("status", "service", "version", "active_requests", "max_concurrent", "active_model_requests", "memory"),
    *("models_cached", "cached_models", "total_models", "rate_limit", "warnings"),
}
MEMORY_FIELDS = {"used_percent", "available_gb", "total_gb", "warning_threshold", "critical_threshold"}
CACHED_FIELDS = {"name", "use_count", "last_used", "load_time_seconds", "active_requests", "is_loading"}


def _vitals(**changes: Any) -> Vitals:
    percent = changes.pop("percent", 50.0)
    facts: dict[str, Any] = {
        "phase": "serving",
        "active": 0,
        "waiting": 0,
        "most": 5,
        "requests": {},
        "memory": Reading(round(percent * 10), 1000),
        "thresholds": Thresholds(85.0, 95.0, 98.0),
        "cached": [],
        "rate_limit": 30,
        "rate_window": 60.0,
    }
    return Vitals(**{**facts, **changes})


def _cached(**changes: Any) -> CachedModel:
    facts: dict[str, Any] = {
        "name": "m:latest",
        "use_count": 3,
        "last_used": 1_700_000_000_500_000_000,
        "load_seconds": 1.23456,
        "active_requests": 1,
        "is_loading": False,
        "is_restart": False,
        "size": 7,
    }
    return CachedModel(**{**facts, **changes})


@pytest.mark.parametrize(
    ("facts", "status", "warnings"),
    [
        ({}, "healthy", []),
        ({"memory": None}, "healthy", []),
        ({"active": 4}, "healthy", []),
        ({"active": 5}, "degraded", ["overload: 5 of 5 inference requests at once are under way"]),
        (
            {"active": 5, "waiting": 2},
            "degraded",
            ["overload: 5 of 5 inference requests at once are under way, 2 wait"],
        ),
        ({"cached": [_cached(is_loading=True, is_restart=True)]}, "degraded", []),
        ({"cached": [_cached(is_loading=True)]}, "healthy", []),
        ({"cached": [_cached(is_restart=True)]}, "healthy", []),
        ({"percent": 84.9}, "healthy", []),
        ({"percent": 85.0}, "warning", ["memory is 85.0 % in use, the warning level is 85 %"]),
        ({"percent": 95.0}, "warning", ["memory is 95.0 % in use, the warning level is 85 %"]),
        (
            {"percent": 95.1},
            "critical",
            ["memory is 95.1 % in use, critical is 95 %: idle models are unloaded, new ones are refused"],
        ),
        (
            {"percent": 90.0, "active": 5},
            "warning",
            [
                "memory is 90.0 % in use, the warning level is 85 %",
                "overload: 5 of 5 inference requests at once are under way",
            ],
        ),
    ],
)
def test_the_status_is_the_worst_that_holds(facts: dict[str, Any], status: str, warnings: list[str]) -> None:
    vitals = _vitals(**facts)
    assert (status_of(vitals), warnings_of(vitals), code_of(vitals)) == (status, warnings, 200)


@pytest.mark.parametrize("phase", ["starting", "draining"])
def test_a_server_that_takes_nothing_says_503(phase: str) -> None:
    vitals = _vitals(phase=phase, percent=99.0)
    assert (status_of(vitals), code_of(vitals)) == (phase, 503)


def test_the_fields_of_a_moment() -> None:
    vitals = _vitals(memory=Reading(1 << 29, 1 << 30), active=1, requests={"m:latest": 1}, cached=[_cached()])
    assert health(vitals, 4) == {
        "status": "healthy",
        "service": "mlx-ollama",
        "version": __version__,
        "active_requests": 1,
        "max_concurrent": 5,
        "active_model_requests": {"m:latest": 1},
        "memory": {
            "used_percent": 50.0,
            "available_gb": 0.5,
            "total_gb": 1.0,
            "warning_threshold": 85.0,
            "critical_threshold": 95.0,
            "emergency_threshold": 98.0,
            "guard": "on",
            "source": "system",
        },
        "models_cached": 1,
        "cached_models": [
            {
                "name": "m:latest",
                "use_count": 3,
                "last_used": "2023-11-14T22:13:20.5Z",
                "load_time_seconds": 1.235,
                "active_requests": 1,
                "is_loading": False,
            }
        ],
        "total_models": 4,
        "rate_limit": {"max_per_window": 30, "window_seconds": 60.0},
        "warnings": [],
        "queued_requests": 0,
        "restarting_models": [],
    }


def test_without_a_guard_the_fields_are_there_and_say_so() -> None:
    memory = health(_vitals(memory=None), 0)["memory"]
    assert set(memory) > MEMORY_FIELDS
    assert (memory["used_percent"], memory["guard"]) == (None, "off: psutil is not installed")


WITHOUT_PSUTIL = """
import asyncio, sys
sys.modules["psutil"] = None
import httpx
from mlx_ollama.app import create_gateway
from mlx_ollama.settings import load

async def main():
    app = create_gateway(load({"home": sys.argv[1]}, {}).settings).app
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        loaded = await client.post("/api/embed", json={"model": "encoder", "input": "ba"})
        print(loaded.status_code, (await client.get("/health")).text)

asyncio.run(main())
"""


def test_a_server_without_psutil_works_and_says_that_the_guard_is_off(tmp_path: Path) -> None:
    encoder = write_tiny_encoder(tmp_path / "encoder")
    import_model(tmp_path / "home", "encoder", encoder)
    command = [sys.executable, "-c", WITHOUT_PSUTIL, str(tmp_path / "home")]
    printed = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=True)
    status, told = printed.stdout.split(" ", 1)
    assert status == "200"
    assert json.loads(told)["memory"]["guard"] == "off: psutil is not installed"
    assert json.loads(told)["models_cached"] == 1
    assert "memory is not watched: psutil is not installed" in printed.stderr


def test_an_idle_server(tiny: Server) -> None:
    assert tiny.post("/api/generate", {"model": "tiny"}).status_code == 200
    before = tiny.client.get("/health").json()["cached_models"][0]["use_count"]
    body = {"model": "tiny", "prompt": "ba", "stream": False, "options": {"num_predict": 1}}
    assert tiny.post("/api/generate", body).status_code == 200
    answer = tiny.client.get("/health")
    told = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json; charset=utf-8")
    assert set(told) >= FIELDS
    assert set(told["memory"]) >= MEMORY_FIELDS
    (cached,) = told["cached_models"]
    assert set(cached) == CACHED_FIELDS
    assert (cached["name"], cached["active_requests"], cached["is_loading"]) == ("tiny:latest", 0, False)
    assert cached["use_count"] == before + 1
    assert cached["load_time_seconds"] > 0
    age = datetime.now(UTC) - datetime.fromisoformat(cached["last_used"])
    assert 0 <= age.total_seconds() < 60
    assert (told["active_requests"], told["active_model_requests"], told["total_models"]) == (0, {}, 1)
    assert 0 < told["memory"]["used_percent"] < 100
    assert tiny.client.get("/").text == "Ollama is running"
    assert tiny.client.head("/health").status_code == 200
    short = tiny.client.get("/status").json()
    assert set(short) == {
        *("status", "service", "version", "active_requests", "max_concurrent", "models_cached"),
        *("memory_used_percent", "warnings"),
    }
    assert tiny.client.post("/health").status_code == 405


def test_a_busy_and_a_loading_server(tiny_home: Path) -> None:
    limits = {"MLX_API_PROFILE": "guarded", "MLX_API_MAX_CONCURRENT": "1"}
    with serving(tiny_home, "--context-length", "8192", env=limits) as server, _asking(server) as lines:

        def health() -> dict[str, Any]:
            told: dict[str, Any] = server.client.get("/health").json()
            return told

        loading = wait_until(lambda: (told := health())["cached_models"] and told, "a load")
        if loading["cached_models"][0]["is_loading"]:
            assert loading["cached_models"][0]["load_time_seconds"] == 0
            assert loading["status"] == "degraded"
        wait_until(lambda: lines, "an answer under way")
        busy = health()
        assert busy["active_requests"] == busy["max_concurrent"] == 1
        assert busy["active_model_requests"] == {"tiny:latest": 1}
        (cached,) = busy["cached_models"]
        assert (cached["active_requests"], cached["is_loading"]) == (1, False)
        assert busy["status"] == "degraded"
        assert busy["warnings"] == ["overload: 1 of 1 inference requests at once are under way"]
        assert busy["rate_limit"] == {"max_per_window": 30, "window_seconds": 60.0}


@contextmanager
def _asking(server: Server) -> Iterator[list[dict[str, Any]]]:
    """A long stream under way, and its lines so far; hung up on at the end."""
    lines: list[dict[str, Any]] = []
    ended = threading.Event()
    body = {"model": "tiny", "prompt": "bada", "options": {"num_predict": 100_000}}

    def read() -> None:
        with httpx.stream("POST", f"{server.url}/api/generate", json=body, timeout=60, trust_env=False) as response:
            for line in response.iter_lines():
                lines.append(json.loads(line))
                if ended.is_set():
                    return

    thread = threading.Thread(target=read)
    thread.start()
    yield lines
    ended.set()
    thread.join(30)


async def _phases(home: Path) -> list[tuple[int, str]]:
    seen: list[tuple[int, str]] = []

    async def look(client: httpx.AsyncClient) -> None:
        for path in ("/health", "/status"):
            answer = await client.get(path)
            seen.append((answer.status_code, answer.json()["status"]))

    async with running(home, Dial()) as (client, gateway):
        gateway.in_flight.opened = False
        await look(client)
        gateway.in_flight.opened = True
        await look(client)
        gateway.in_flight.closed = True
        await look(client)
    return seen


def test_starting_and_draining_over_http(tmp_path: Path) -> None:

    assert asyncio.run(_phases(tmp_path)) == [
        *[(503, "starting")] * 2,
        *[(200, "healthy")] * 2,
        *[(503, "draining")] * 2,
    ]
