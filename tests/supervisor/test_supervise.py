"""`mlx-ollama supervise`: the gateway comes back from every end but the one that was asked for."""

import json
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from mlx_ollama.settings import Settings
from mlx_ollama.supervisor.events import Event, EventBus
from mlx_ollama.supervisor.gateway import GatewayProcess
from tests.support.server import wait_until
from tests.support.supervised import is_gone, supervised


def test_a_gateway_that_is_killed_comes_back_at_the_same_address(tmp_path: Path) -> None:
    with supervised(tmp_path) as supervisor:
        ready = supervisor.event("ready")
        assert supervisor.get("/").text == "Ollama is running"
        psutil.Process(ready["pid"]).kill()
        down, recovered = supervisor.event("down"), supervisor.event("recovered")
        assert (down["reason"], down["exit_status"]) == ("it was ended by SIGKILL", -9)
        assert recovered["pid"] != ready["pid"]
        assert recovered["address"] == ready["address"]
        assert supervisor.get("/").text == "Ollama is running"
        assert supervisor.stop() == 0
        kinds = [event["event"] for event in supervisor.events()]
        assert kinds == ["started", "ready", "down", "restarted", "recovered", "stopped"]
        assert is_gone(recovered["pid"])
        written = (tmp_path / "supervisor.jsonl").read_text()
        assert [json.loads(line) for line in written.splitlines()] == supervisor.events()


def test_a_gateway_that_is_killed_takes_its_workers_along(tiny_home: Path, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(tiny_home / "models")
    with supervised(tmp_path) as supervisor:
        gateway = psutil.Process(supervisor.event("ready")["pid"])
        question = {"model": "tiny", "prompt": "bada", "stream": False, "options": {"num_predict": 3}}
        before = supervisor.post("/api/generate", question)
        (worker,) = gateway.children()
        gateway.kill()
        wait_until(lambda: is_gone(worker.pid), "the end of the worker", 5)
        supervisor.event("recovered")
        assert supervisor.post("/api/generate", question)["response"] == before["response"]


def test_a_gateway_that_stands_still_is_replaced(tmp_path: Path) -> None:
    with supervised(tmp_path) as supervisor:
        stuck = psutil.Process(supervisor.event("ready")["pid"])
        stuck.suspend()
        down = supervisor.event("down")
        assert down["reason"] == "it gave no answer to 3 checks in a row"
        assert "exit_status" not in down
        assert supervisor.event("recovered")["pid"] != stuck.pid
        # SIGTERM cannot reach what stands still.
        assert is_gone(stuck.pid)


def test_one_miss_is_no_death(tmp_path: Path) -> None:
    with supervised(tmp_path, env={"MLX_API_SUPERVISE_MISSES": "1000"}) as supervisor:
        slow = psutil.Process(supervisor.event("ready")["pid"])
        slow.suspend()
        time.sleep(1.5)
        slow.resume()
        assert supervisor.get("/").text == "Ollama is running"
        assert not supervisor.events("down")


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_end_that_was_asked_for(tmp_path: Path, name: signal.Signals) -> None:
    with supervised(tmp_path) as supervisor:
        gateway = supervisor.event("ready")["pid"]
        assert supervisor.stop(name) == 0
        stopped = supervisor.events()[-1]
        assert (stopped["event"], stopped["signal"], stopped["exit_status"]) == ("stopped", name.name, 0)
        assert not stopped["killed"]
        assert is_gone(gateway)
        assert "stopping: 0 answers" in supervisor.log.read_text()


def test_an_end_before_there_is_anything(tmp_path: Path) -> None:
    with supervised(tmp_path) as supervisor:
        started = supervisor.event("started")
        assert supervisor.stop() == 0
        assert is_gone(started["pid"])


def test_an_end_has_the_drain_budget_and_a_little_more(tmp_path: Path) -> None:
    budget = {"MLX_API_DRAIN": "0.3", "MLX_API_SUPERVISE_STOP": "0.5"}
    with supervised(tmp_path, env=budget) as supervisor:
        gateway = psutil.Process(supervisor.event("ready")["pid"])
        gateway.suspend()
        began = time.monotonic()
        assert supervisor.stop() == 0
        assert 0.8 <= time.monotonic() - began < 10
        assert supervisor.events()[-1]["killed"]
        assert is_gone(gateway.pid)


def test_a_crash_loop_ends_and_says_what_to_do(tmp_path: Path) -> None:
    with _taken() as taken:
        port = str(taken.getsockname()[1])
        with supervised(tmp_path, "--port", port, env={"MLX_API_SUPERVISE_RESTARTS": "2"}) as supervisor:
            assert supervisor.process.wait(60) == 1
    kinds = [event["event"] for event in supervisor.events()]
    assert kinds == ["started", "down", "restarted", "down", "restarted", "down", "gave_up"]
    gave_up = supervisor.events()[-1]
    assert gave_up["reason"] == "the gateway is down again after 2 restarts in 300 s"
    said = supervisor.log.read_text()
    assert f"port {port} on 127.0.0.1 is taken" in said
    assert f"giving up: {gave_up['reason']}" in said
    assert f"Run `mlx-ollama serve --home={tmp_path} --port={port}` by itself" in said


def test_starts_that_fail_open_the_breaker(tmp_path: Path) -> None:
    patient = {"MLX_API_SUPERVISE_BREAKER": "2", "MLX_API_SUPERVISE_BREAKER_OPEN": "1.5"}
    with _taken() as taken:
        port = str(taken.getsockname()[1])
        with supervised(tmp_path, "--port", port, env={**patient, "MLX_API_SUPERVISE_BACKOFF": "0"}) as supervisor:
            supervisor.event("down", 2)
            began = time.monotonic()
            taken.close()
            supervisor.event("recovered")
            assert time.monotonic() - began >= 1.4
            assert supervisor.stop() == 0
    assert len(supervisor.events("restarted")) == 2


def test_settings_that_cannot_be_used_are_not_tried_again(tmp_path: Path) -> None:
    with supervised(tmp_path, "--port", "70000") as supervisor:
        assert supervisor.process.wait(60) == 2
        assert "not a port" in supervisor.log.read_text()
        assert not supervisor.events()


def test_settings_that_turn_bad_end_it_at_once(tmp_path: Path) -> None:
    with supervised(tmp_path) as supervisor:
        ready = supervisor.event("ready")
        (tmp_path / "config.toml").write_text('device = "npu"\n')
        psutil.Process(ready["pid"]).kill()
        assert supervisor.process.wait(60) == 2
        assert supervisor.events()[-1]["reason"] == "the gateway refuses its settings"
        assert "must be one of auto, cpu, gpu" in supervisor.log.read_text()


def test_a_supervisor_that_is_killed_leaves_no_gateway_behind(tmp_path: Path) -> None:
    with supervised(tmp_path) as first:
        ready = first.event("ready")
        first.process.kill()
        wait_until(lambda: is_gone(ready["pid"]), "the end of the gateway")
    port = ready["address"].rpartition(":")[2]
    with supervised(tmp_path, "--port", port) as second:
        assert second.event("ready")["address"] == ready["address"]


def test_answers_under_way_survive_the_supervisor(tiny_home: Path, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(tiny_home / "models")
    with supervised(tmp_path, "--port", "0", "--context-length", "8192") as supervisor:
        ready = supervisor.event("ready")
        body = {"model": "tiny", "prompt": "bada", "options": {"num_predict": 400}}
        with httpx.stream("POST", f"{ready['address']}/api/generate", json=body, timeout=60, trust_env=False) as answer:
            lines = answer.iter_lines()
            next(lines)
            supervisor.process.kill()
            assert json.loads([*lines][-1])["eval_count"] == 400
        wait_until(lambda: is_gone(ready["pid"]), "the end of the gateway")


def test_the_numbers_are_these() -> None:
    numbers = Settings()
    assert (numbers.supervise_interval, numbers.supervise_misses, numbers.supervise_grace) == (10, 3, 10)
    assert (numbers.supervise_restarts, numbers.supervise_window, numbers.supervise_stop) == (5, 300, 10)
    assert (numbers.supervise_backoff, numbers.supervise_backoff_most) == (2, 60)
    assert (numbers.supervise_breaker, numbers.supervise_breaker_open) == (5, 60)


def test_flags_of_serve_reach_it(tmp_path: Path) -> None:
    with supervised(tmp_path, "--port", "0", "--host", "localhost", "--keep-alive=-1m", "--log-format", "json") as one:
        ready = one.event("ready")
        (gateway,) = one.gateways()
        assert gateway.pid == ready["pid"]
        flags = set(gateway.cmdline())
        assert {f"--home={tmp_path}", "--host=localhost", "--keep-alive=-1m", "--log-format=json"} <= flags
        assert one.stop() == 0


def test_it_is_small(tmp_path: Path) -> None:
    program = "import sys, mlx_ollama.supervisor.__main__; print(*sys.modules)"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {module.split(".")[0] for module in printed.stdout.split()}
    heavy = {"mlx", "mlx_lm", "numpy", "transformers", "starlette", "hypercorn", "httpx", "orjson", "psutil"}
    assert not loaded & (heavy | {"asyncio", "ssl", "urllib.request"})
    with supervised(tmp_path) as supervisor:
        supervisor.event("ready")
        memory = psutil.Process(supervisor.process.pid).memory_info().rss
        bare = subprocess.run(
            [sys.executable, "-c", "import psutil; print(psutil.Process().memory_info().rss)"],
            capture_output=True,
            text=True,
            check=True,
        )
        # A few megabytes over what any Python costs; psutil is in the other pan of the scale.
        assert memory < int(bare.stdout) + 6 * 2**20


@pytest.mark.parametrize(
    ("answer", "alive"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 503 Service Unavailable\r\n", True),
        (b"HTTP/1.1 401 Unauthorized\r\n", True),
        (b"HTTP/1.1 500 Internal Server Error\r\n", False),
        (b"HTTP/1.1 200", False),
        (b"SSH-2.0-OpenSSH\r\n", False),
        (b"", False),
        (None, False),
    ],
)
def test_what_counts_as_an_answer(answer: bytes | None, *, alive: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours, theirs = socket.socketpair()
        theirs.sendall(f"http://127.0.0.1:{server.getsockname()[1]}\n".encode())
        ours.setblocking(False)
        with subprocess.Popen([sys.executable, "-c", ""]) as process, ours, theirs:
            gateway = GatewayProcess(process, ours)
            assert gateway.listen()

            def give() -> None:
                connection, _ = server.accept()
                with connection:
                    assert connection.recv(1000).startswith(b"GET /health HTTP/1.1\r\nhost: localhost\r\n")
                    if answer is None:
                        connection.recv(1)
                    else:
                        connection.sendall(answer)

            thread = threading.Thread(target=give)
            thread.start()
            assert gateway.answers(0.5) == alive
            thread.join(10)


def _taken() -> socket.socket:
    """A port on which nobody can listen, nor talk to anyone."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    return taken


@contextmanager
def _webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    posted: list[dict[str, Any]] = []

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.headers["content-type"] == "application/json"
            posted.append(json.loads(body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
            pass

    server = HTTPServer(("127.0.0.1", 0), Taker)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/events", posted
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_webhook_and_command_hear_every_event(tmp_path: Path) -> None:
    heard = tmp_path / "heard by the hook.jsonl"
    command = shlex.join(
        (sys.executable, "-c", "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())", str(heard))
    )
    with _webhook() as (url, posted):
        hooks = {"MLX_API_SUPERVISE_WEBHOOK": url, "MLX_API_SUPERVISE_HOOK": command}
        with supervised(tmp_path, env=hooks) as supervisor:
            psutil.Process(supervisor.event("ready")["pid"]).kill()
            supervisor.event("recovered")
            assert supervisor.stop() == 0
    assert posted == supervisor.events()
    assert [json.loads(line) for line in heard.read_text().splitlines()] == supervisor.events()


def test_hooks_that_fail_or_hang_hold_up_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        hooks = {
            "MLX_API_SUPERVISE_WEBHOOK": f"http://127.0.0.1:{deaf.getsockname()[1]}/",
            "MLX_API_SUPERVISE_HOOK": "sh -c 'sleep 600'",
            "MLX_API_SUPERVISE_HOOK_TIMEOUT": "0.5",
            "MLX_API_SUPERVISE_EVENTS": "/dev/null/nowhere",
        }
        with supervised(tmp_path, env=hooks) as supervisor:
            psutil.Process(supervisor.event("ready")["pid"]).kill()
            supervisor.event("recovered")
            assert supervisor.stop() == 0
            said = supervisor.log.read_text()
            assert "Hook(command=('sh', '-c', 'sleep 600'), timeout=0.5) failed on the event 'started'" in said
            assert "Webhook" in said
            assert "EventFile" in said


def test_a_slow_subscriber_holds_up_no_other() -> None:
    bus = EventBus()
    go = threading.Event()
    told: list[str] = []
    slow: list[str] = []

    def wait(event: Event) -> None:
        go.wait(30)
        slow.append(event.kind)

    bus.subscribe(wait)
    bus.subscribe(lambda event: told.append(event.kind))
    for _ in range(3):
        bus.publish(Event("down", {}))
    wait_until(lambda: len(told) == 3, "the quick one's events")
    assert not slow
    go.set()
    bus.close(30)
    assert slow == ["down"] * 3
