"""kill -9 and SIGTERM of the gateway, in whatever is going on: nothing is left behind, and the next one is as good."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.faults.standing import GOOD_TOKENS, is_gone, is_healthy, stored
from tests.support.server import deaf, run_cli, serving, wait_until
from tests.support.supervised import Supervised, supervised

pytestmark = pytest.mark.xdist_group("matrix-gateway")

GOOD = {"model": "tiny", "prompt": "bada", "stream": False, "options": {"num_predict": GOOD_TOKENS}}
LONG = {"model": "tiny", "prompt": "bada", "options": {"num_predict": 8000}}
PATIENT = {
    "MLX_API_SUPERVISE_RESTARTS": "100",
    "MLX_API_SUPERVISE_BACKOFF_MOST": "0.05",
    "MLX_API_PROFILE": "ollama",
    "MLX_API_CONTEXT_LENGTH": "8192",
    "MLX_API_DRAIN": "0.2",
}


@dataclass(frozen=True)
class Bench:
    supervisor: Supervised
    good: str

    @property
    def url(self) -> str:
        return str(self.supervisor.events("ready", "recovered")[-1]["address"])

    @property
    def gateway(self) -> psutil.Process:
        return psutil.Process(self.supervisor.events("ready", "recovered")[-1]["pid"])


@pytest.fixture(scope="module")
def home(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gateway")
    made = run_cli("import", "tiny", str(tiny_directory), "--home", str(folder), "--parameter", "temperature=0")
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope="module")
def bench(home: Path) -> Iterator[Bench]:
    with supervised(home, env=PATIENT) as supervisor:
        supervisor.event("ready")
        yield Bench(supervisor, supervisor.post("/api/generate", GOOD)["response"])


def _row(state: str) -> Any:
    fault = pytest.mark.fault("kill -9 of the gateway", state, "workers gone within a second; the supervisor restarts it")
    return pytest.param(state, marks=fault, id=state)


@pytest.mark.parametrize("state", [_row(state) for state in ("idle", "loading", "prefill", "decode")])
def test_a_gateway_that_is_killed(bench: Bench, home: Path, state: str) -> None:
    gateway, before = bench.gateway, stored(home)
    if state == "loading":
        bench.supervisor.post("/api/generate", {"model": "tiny", "keep_alive": 0})
        wait_until(lambda: not gateway.children(recursive=True), "the end of the worker")
    body = {**LONG, "prompt": "keti zuzu momo " * 1000} if state == "prefill" else LONG
    recovered = len(bench.supervisor.events("recovered"))
    with httpx.Client(base_url=bench.url, timeout=60, trust_env=False) as client:
        if state == "decode":
            _first_line(client, body)
        elif state != "idle":
            with pytest.raises(httpx.TimeoutException):
                client.post("/api/generate", json=body, timeout=0.2)
        workers = wait_until(lambda: gateway.children(recursive=True), "a worker")
        os.kill(gateway.pid, signal.SIGKILL)
        killed = time.monotonic()
        wait_until(lambda: all(map(is_gone, workers)), "the end of the workers", seconds=10)
        assert time.monotonic() - killed < 1
    bench.supervisor.event("recovered", recovered + 1)
    assert is_healthy(bench.url)
    assert bench.supervisor.post("/api/generate", GOOD)["response"] == bench.good
    assert before.items() <= stored(home).items()
    assert bench.supervisor.get("/health").json()["active_requests"] == 0
