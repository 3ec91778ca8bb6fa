"""kill -9 and SIGTERM of the gateway, in whatever is going on: nothing is left behind, and the next one is as good."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.faults.standing import GOOD_TOKENS, good_text, is_gone, is_healthy, stored
from tests.support.server import Server, deaf, run_cli, serving, wait_until
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
    fault = pytest.mark.fault(
        "kill -9 of the gateway", state, "workers gone within a second; the supervisor restarts it"
    )
    return pytest.param(state, marks=fault, id=state)


@pytest.mark.parametrize("state", [_row(state) for state in ("idle", "loading", "prefill", "decode")])
def test_a_gateway_that_is_killed(bench: Bench, home: Path, state: str) -> None:
    gateway, before = bench.gateway, stored(home)
    if state == "loading":
        bench.supervisor.post("/api/generate", {"model": "tiny", "keep_alive": 0})
        wait_until(lambda: not gateway.children(recursive=True), "the end of the worker")
    recovered = len(bench.supervisor.events("recovered"))
    with asking(bench.url, state):
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


@contextmanager
def asking(url: str, state: str) -> Iterator[socket.socket]:
    """A request that is under way: its model loads, its prompt is read, its answer comes; nothing for `idle`."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        if state != "idle":
            body = json.dumps(LONG | ({"prompt": "keti zuzu momo " * 1000} if state == "prefill" else {}))
            head = f"POST /api/generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body.encode())
            wait_until(lambda: httpx.get(f"{url}/health", trust_env=False).json()["active_requests"], "the request")
        if state == "decode":
            assert b'"response"' in connection.recv(1 << 16)
        yield connection


def _sigterm(when: str, outcome: str) -> Any:
    return pytest.param(when, marks=pytest.mark.fault("SIGTERM", when, outcome), id=when.replace(" ", "-"))


@pytest.mark.parametrize(
    "when",
    [
        _sigterm("loading", "told 503"),
        _sigterm("prefill", "told 503"),
        _sigterm("decode", "told in the last line"),
        _sigterm("a worker that stands still", "told in the last line"),
        _sigterm("half a request", "hung up on"),
        _sigterm("a reader that stops", "hung up on"),
    ],
)
def test_sigterm_in_the_middle(home: Path, when: str) -> None:
    before = stored(home)
    state = when if when in ("loading", "prefill", "decode") else "decode"
    with serving(home, "--drain", "0.2", "--context-length", "8192") as server:
        if when != "loading":
            server.post("/api/generate", {"model": "tiny"})
        if when == "half a request":
            with socket.create_connection((server.host, server.port), timeout=30) as connection:
                connection.sendall(b"POST /api/generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{")
                workers = _ended(server)
                assert b"200" not in _rest(connection)
        elif when == "a reader that stops":
            with deaf(server, LONG | {"logprobs": True, "top_logprobs": 20}):
                wait_until(lambda: server.client.get("/health").json()["active_requests"], "the request")
                workers = _ended(server)
        else:
            with asking(server.url, state) as connection:
                workers = wait_until(server.workers, "a worker")
                if when == "a worker that stands still":
                    workers[0].suspend()
                _ended(server)
                assert b"server is shutting down" in _rest(connection)
        assert all(map(is_gone, workers))
    with serving(home) as server:
        assert is_healthy(server.url)
        assert before.items() <= stored(home).items()
        assert good_text(server)


def _ended(server: Server) -> list[psutil.Process]:
    """End a server; the workers that it had."""
    workers = server.workers()
    assert server.stop() == 0
    return workers


def _rest(connection: socket.socket) -> bytes:
    rest = b""
    with suppress(ConnectionError):
        while piece := connection.recv(1 << 16):
            rest += piece
    return rest
