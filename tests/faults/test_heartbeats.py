"""A worker that answers no more is ended and replaced; one that is busy is left alone."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.harm import harm
from tests.support.server import Server, is_busy, serving, wait_until

QUICK = {
    "MLX_API_WORKER_HEARTBEAT": "0.2",
    "MLX_API_WORKER_PATIENCE": "4",
    "MLX_API_WORKER_GRACE": "0.5",
    "MLX_API_WORKER_BACKOFF": "0.05",
}


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    with serving(home, "--context-length", "32768", env=QUICK) as server:
        yield server


def _ask(server: Server, body: dict[str, Any]) -> "tuple[threading.Thread, list[Any]]":
    told: list[Any] = []

    def ask() -> None:
        with suppress(httpx.HTTPError):
            told.append(server.post("/api/generate", body))

    asking = threading.Thread(target=ask)
    asking.start()
    return asking, told


def _worker(server: Server) -> psutil.Process:
    found: psutil.Process = wait_until(server.workers, "a worker")[0]
    return found


def test_a_worker_that_stands_still_is_ended_and_its_answer_goes_on(server: Server) -> None:
    server.post("/api/generate", {"model": "tiny"})
    worker = _worker(server)
    lines = []
    body = {"model": "tiny", "prompt": "bada", "options": {"num_predict": 400, "num_ctx": 8192}}
    with server.client.stream("POST", "/api/generate", json=body) as response:
        for line in response.iter_lines():
            lines.append(json.loads(line))
            if len(lines) == 5:
                # SIGTERM waits for SIGCONT, which never comes: SIGKILL it has to be.
                worker.send_signal(signal.SIGSTOP)
    assert lines[-1]["eval_count"] == 400
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    assert f"worker {worker.pid} has not answered for 4 s and is ended" in server.log.read_text()
    assert server.figure("worker_deaths_total") == 1


def test_a_worker_that_stands_still_while_it_loads_is_replaced(server: Server) -> None:
    asking, told = _ask(server, {"model": "slow"})
    worker = _worker(server)
    worker.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    asking.join(60)
    assert time.monotonic() - began < 30
    assert told[0].status_code == 200
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    assert f"worker {worker.pid} has not answered for 4 s and is ended" in server.log.read_text()
    assert server.figure("worker_deaths_total") == 1


def test_a_model_that_gets_no_further_is_ended_though_its_worker_answers(home: Path) -> None:
    """It is asked and says that it lives; but the step that it is at does not end."""
    with harm() as doing, serving(home, env={**QUICK, "MLX_API_WORKER_PATIENCE": "1.5", **doing.environment}) as server:
        body = {"model": "tiny", "prompt": "bada", "options": {"num_predict": 400, "num_ctx": 8192}}
        whole = server.post("/api/generate", {**body, "stream": False}).json()["response"]
        worker = _worker(server)
        text = []
        with server.client.stream("POST", "/api/generate", json=body) as response:
            for line in response.iter_lines():
                text.append(json.loads(line)["response"])
                if len(text) == 5:
                    doing.hang(worker)
        assert "".join(text) == whole
        assert f"worker {worker.pid} has been at one step for 18 s and is ended" in server.log.read_text()
        assert server.figure("worker_deaths_total") == server.figure("resumed_streams_total") == 1


def test_a_worker_that_reads_a_long_prompt_is_not_dead(server: Server) -> None:
    server.post("/api/generate", {"model": "slow"})
    worker = _worker(server)
    body = {"model": "slow", "prompt": "keti zuzu momo " * 1200, "stream": False, "options": {"num_predict": 1}}
    asking, _ = _ask(server, body)
    for _ in range(8):
        time.sleep(1)
        assert worker.is_running()
        assert server.figure("worker_deaths_total") == 0
    wait_until(lambda: is_busy(worker) or not asking.is_alive(), "a share of the processor")
    server.kill()
    asking.join(30)
