"""kill -9 of the gateway, in whatever is going on: nothing is left behind, and the next one is as good."""

import json
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.faults.standing import GOOD_TOKENS, is_gone, is_healthy, stored
from tests.faults.storing import import_model
from tests.support.server import is_busy, wait_until
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
BUDGET_SECONDS = 0.2 + 10.0
STATES = ("idle", "loading", "prefill", "decode")


class Reign:
    """The supervisor of the moment, and its gateway, which answers a good request with `good`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._stack = ExitStack()
        self.begin()
        self.good = self.answer()

    def begin(self) -> None:
        self.end()
        self.supervisor: Supervised = self._stack.enter_context(supervised(self.home, env=PATIENT))
        self.supervisor.event("ready")

    def end(self) -> None:
        self._stack.close()

    def answer(self) -> str:
        return str(self.supervisor.post("/api/generate", GOOD)["response"])

    @property
    def url(self) -> str:
        return str(self.supervisor.events("ready", "recovered")[-1]["address"])

    @property
    def gateway(self) -> psutil.Process:
        return psutil.Process(self.supervisor.events("ready", "recovered")[-1]["pid"])

    @contextmanager
    def killed(self, state: str) -> Iterator[list[psutil.Process]]:
        """Its gateway has just been killed while something was under way; the processes that it had begun."""
        gateway = self.gateway
        if state == "loading":
            self.supervisor.post("/api/generate", {"model": "tiny", "keep_alive": 0})
            wait_until(lambda: not gateway.children(), "the end of the worker")
        others = gateway.children()
        if state == "prefill":
            self.supervisor.post("/api/generate", {"model": "slow"})
        with asking(self.url, state) as connection:
            if state == "prefill":
                (reader,) = set(gateway.children()) - set(others)
                wait_until(lambda: is_busy(reader), "prefill")
                assert connection is not None
                assert not select.select([connection], [], [], 0)[0], "the answer has begun"
            workers = wait_until(gateway.children, "a worker")
            os.kill(gateway.pid, signal.SIGKILL)
            yield workers


@contextmanager
def asking(url: str, state: str) -> Iterator[socket.socket | None]:
    """A request that is under way: its model loads, its prompt is read, its answer comes; nothing for `idle`.

    Except for what is being decoded, one gets the connection on which the answer will be.
    """
    if state == "idle":
        yield None
        return
    body = LONG | ({"model": "slow", "prompt": "keti zuzu momo " * 2500} if state == "prefill" else {})
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(base_url=url, timeout=60, trust_env=False))
        if state == "decode":
            lines = stack.enter_context(client.stream("POST", "/api/generate", json=body)).iter_lines()
            assert '"response"' in next(lines)
            yield None
        else:
            content = json.dumps(body).encode()
            address = httpx.URL(url)
            connection = stack.enter_context(socket.create_connection((address.host, address.port or 0), timeout=30))
            connection.sendall(b"POST /api/generate HTTP/1.1\r\nhost: localhost\r\n")
            connection.sendall(b"content-length: %d\r\n\r\n%b" % (len(content), content))
            wait_until(lambda: client.get("/health").json()["active_requests"], "the request")
            yield connection


@pytest.fixture(scope="module")
def reign(tiny_directory: Path, slow_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reign]:
    home = tmp_path_factory.mktemp("gateway")
    import_model(home, "tiny", tiny_directory)
    import_model(home, "slow", slow_directory)
    reign = Reign(home)
    yield reign
    reign.end()


def _rows(fault: str, outcome: str) -> list[Any]:
    return [pytest.param(state, marks=pytest.mark.fault(fault, state, outcome), id=state) for state in STATES]


@pytest.mark.parametrize(
    "state", _rows("kill -9 of the gateway", "workers gone within a second; the supervisor restarts it")
)
def test_a_gateway_that_is_killed(reign: Reign, state: str) -> None:
    before = stored(reign.home)
    recovered = len(reign.supervisor.events("recovered"))
    assert reign.answer() == reign.good
    with reign.killed(state) as workers:
        killed = time.monotonic()
        wait_until(lambda: all(map(is_gone, workers)), "the end of the workers", seconds=10)
        assert time.monotonic() - killed < 1
    reign.supervisor.event("recovered", recovered + 1)
    assert is_healthy(reign.url)
    assert reign.answer() == reign.good
    assert before.items() <= stored(reign.home).items()
    assert reign.supervisor.get("/health").json()["active_requests"] == 0


@pytest.mark.parametrize(
    "state", _rows("kill -9 of the gateway, and SIGTERM", "workers gone within a second; the supervisor ends with 0")
)
def test_a_supervisor_that_is_to_end_when_its_gateway_is_killed(reign: Reign, state: str) -> None:
    before, supervisor = stored(reign.home), reign.supervisor
    with reign.killed(state) as workers:
        supervisor.process.send_signal(signal.SIGTERM)
        killed = time.monotonic()
        wait_until(lambda: all(map(is_gone, workers)), "the end of the workers", seconds=10)
        assert time.monotonic() - killed < 1
        assert supervisor.process.wait(60) == 0
        assert time.monotonic() - killed < BUDGET_SECONDS
    pids = {event["pid"] for event in supervisor.events() if "pid" in event}
    assert not [pid for pid in pids if psutil.pid_exists(pid) and not is_gone(psutil.Process(pid))]
    reign.begin()
    assert is_healthy(reign.url)
    assert reign.answer() == reign.good
    assert before.items() <= stored(reign.home).items()
