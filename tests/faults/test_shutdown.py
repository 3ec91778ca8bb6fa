"""The end of a server: asked for, it is graceful; in any case it leaves nothing behind."""

import json
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.server import Server, deaf, run_cli, serving, wait_until


def _stream(server: Server, body: dict[str, Any], lines: list[dict[str, Any]]) -> threading.Thread:
    def read() -> None:
        with httpx.stream("POST", f"{server.url}/api/generate", json=body, timeout=60, trust_env=False) as response:
            lines.extend(json.loads(line) for line in response.iter_lines())

    thread = threading.Thread(target=read)
    thread.start()
    return thread


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_running_streams_finish(home: Path, name: signal.Signals) -> None:
    with serving(home, "--context-length", "8192") as server:
        lines: list[dict[str, Any]] = []
        body = {"model": "tiny", "prompt": "bada", "options": {"num_predict": 1500}}
        assert server.post("/api/generate", {"model": "tiny"}).status_code == 200
        reading = _stream(server, body, lines)
        wait_until(lambda: "POST /api/generate" in server.log.read_text(), "the load's log line")
        (worker,) = server.workers()
        wait_until(lambda: worker.cpu_percent(0.1) > 20, "decoding")
        assert server.stop(name) == 0
        reading.join(30)
        assert lines[-1]["eval_count"] == 1500
        assert not worker.is_running()


def test_new_requests_are_refused_while_draining(home: Path) -> None:
    with serving(home, "--context-length", "8192") as server:
        lines: list[dict[str, Any]] = []
        with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as kept:
            assert kept.post("/api/generate", json={"model": "tiny"}).status_code == 200
            reading = _stream(server, {"model": "tiny", "prompt": "bada", "options": {"num_predict": 4000}}, lines)
            (worker,) = server.workers()
            wait_until(lambda: worker.cpu_percent(0.1) > 20, "decoding")
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "stopping:" in server.log.read_text(), "draining")
            try:
                refused = kept.post("/api/generate", json={"model": "tiny", "prompt": "x"})
                assert (refused.status_code, refused.json()) == (503, {"error": "server is shutting down"})
            except httpx.TransportError:
                pass  # an idle connection is closed at once, and the door is shut
        assert server.process.wait(60) == 0
        reading.join(30)
        assert lines[-1]["eval_count"] == 4000


def test_the_drain_budget_is_kept(home: Path) -> None:
    with serving(home, "--context-length", "8192", "--drain", "0.5") as server:
        lines: list[dict[str, Any]] = []
        assert server.post("/api/generate", {"model": "tiny"}).status_code == 200
        reading = _stream(server, {"model": "tiny", "prompt": "bada", "options": {"num_predict": 8000}}, lines)
        (worker,) = server.workers()
        wait_until(lambda: worker.cpu_percent(0.1) > 20, "decoding")
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 5
        reading.join(30)
        assert lines[-1] == {"error": "server is shutting down"}
        assert len(lines) > 1


def test_a_client_that_stopped_reading_megabytes_ago(home: Path) -> None:
    with serving(home, "--context-length", "8192", "--drain", "0.2") as server:
        assert server.post("/api/generate", {"model": "tiny"}).status_code == 200
        options = {"num_predict": 6000, "temperature": 1, "seed": 1}
        body = {"model": "tiny", "prompt": "bada", "logprobs": True, "top_logprobs": 20, "options": options}
        with deaf(server, body):
            (worker,) = server.workers()
            wait_until(lambda: worker.cpu_percent(0.1) > 20, "decoding")
            wait_until(lambda: worker.cpu_percent(0.5) < 5, "the end of decoding", seconds=120)
            assert server.stop() == 0
        assert not worker.is_running()


def test_whoever_waits_for_a_load_is_told(home: Path) -> None:
    with serving(home, "--drain", "0.1") as server:
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(server.post("/api/generate", {"model": "tiny"})))
        asking.start()
        wait_until(server.workers, "a worker that loads")
        server.process.send_signal(signal.SIGTERM)
        asking.join(30)
        assert server.process.wait(30) == 0
        assert [(answer.status_code, answer.json()) for answer in answers] == [
            (503, {"error": "server is shutting down"})
        ]


def test_a_taken_port_says_who_answers(home: Path) -> None:
    with serving(home) as server:
        refused = run_cli("serve", "--port", str(server.port), "--home", str(home))
        assert refused.returncode == 1
        assert f"port {server.port} on 127.0.0.1 is taken" in refused.stderr
        assert f"process {server.process.pid}" in refused.stderr
        assert "it answers 'Ollama is running'" in refused.stderr
        assert '"version":"0.33.0"' in refused.stderr
        assert "MLX_API_PORT" in refused.stderr


def test_a_taken_port_that_does_not_speak_http(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        refused = run_cli("serve", "--port", str(silent.getsockname()[1]), "--home", str(home))
    assert refused.returncode == 1
    assert "nothing there speaks HTTP" in refused.stderr
