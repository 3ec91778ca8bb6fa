"""A real server in a process of its own, on a free port, with an environment that no developer's settings reach."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.processes import children

PATIENT = {"MLX_API_PROFILE": "ollama", "MLX_API_SPARE": "0"}
"""For tests that are not about limits: many requests at once, or of one address, are nothing special; and a worker that
nobody may want is not made by each of many servers."""

START_SECONDS = 60.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.02

UNTROUBLED = {f"MLX_API_MEMORY_{level}": "100" for level in ("WARNING", "CRITICAL", "EMERGENCY")}
"""How full the machine is that runs the tests shall not decide them; those of the guard have a gauge of their own."""


def clean_environment() -> dict[str, str]:
    # Without byte code every process would compile the package anew.
    foreign = ("MLX_API_", "OLLAMA_", "HF_", "HUGGINGFACE_", "PYTEST_", "COV_", "PYTHONDONTWRITEBYTECODE")
    return {key: value for key, value in os.environ.items() if not key.startswith(foreign)}


def run_cli(
    *arguments: str, env: Mapping[str, str] | None = None, typed: str = "", folder: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """The command as somebody runs it in `folder`, with `typed` coming through a pipe."""
    command = [sys.executable, "-m", "mlx_ollama", *arguments]
    environment = clean_environment() | dict(env or {})
    return subprocess.run(
        command, env=environment, input=typed, capture_output=True, text=True, timeout=300, check=False, cwd=folder
    )


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"{what} did not happen within {seconds} s")


def is_busy(worker: psutil.Process, seconds: float = 0.3) -> bool:
    """Whether a worker computes: its processor time grows with the clock."""
    before = sum(worker.cpu_times()[:2])
    time.sleep(seconds)
    return bool(sum(worker.cpu_times()[:2]) - before > seconds / 3)


class Server:
    """A running `mlx-ollama serve`; its log is in `log`."""

    def __init__(self, home: Path, log: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.home, self.log = home, log
        command = [sys.executable, "-m", "mlx_ollama", "serve", "--port", "0", "--home", str(home), *arguments]
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                command,
                env=clean_environment() | PATIENT | UNTROUBLED | dict(env or {}),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self.url = self._announced()
        self.client = httpx.Client(base_url=self.url, timeout=120, trust_env=False)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://").rpartition(":")[0]

    def workers(self) -> list[psutil.Process]:
        return children(psutil.Process(self.process.pid), "mlx_ollama.worker")

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def figure(self, name: str) -> float:
        """One of its metrics, without labels."""
        lines = self.client.get("/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"mlx_ollama_{name} "))

    def lines(self, path: str, body: Any) -> list[dict[str, Any]]:
        with self.client.stream("POST", path, json=body) as response:
            return [json.loads(line) for line in response.iter_lines()]

    def stop(self, name: int = signal.SIGTERM) -> int:
        """End the server as an operator would; the exit status."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(name)
        try:
            return self.process.wait(STOP_SECONDS)
        finally:
            self.kill()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP_SECONDS)
        if self.process.stdout:
            self.process.stdout.close()

    def _announced(self) -> str:
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], START_SECONDS)
        line = self.process.stdout.readline() if ready else ""
        found = re.search(r"http://\S+", line)
        if not found:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"no server: {line!r} {self.log.read_text()[-2000:]}")
        return found.group()


class Fatal:
    """Has two workers die of one answer, after which it is not tried again. To be told of every sign of it."""

    def __init__(self, server: Server, at: int = 5) -> None:
        self._server = server
        self._left = at

    def seen(self) -> None:
        self._left -= 1
        if self._left == 0:
            before = self._server.figure("resumed_streams_total")
            (first,) = self._server.workers()
            first.kill()
            # What has arrived by now may still be the first one's.
            wait_until(lambda: self._server.figure("resumed_streams_total") > before, "the answer goes on", 60)
            for other in self._server.workers():
                if other != first:
                    other.kill()


@contextmanager
def deaf(server: Server, body: Any) -> Iterator[socket.socket]:
    """A client that asks to generate and never reads."""
    content = json.dumps(body).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect((server.host, server.port))
        head = "POST /api/generate HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        yield connection


@contextmanager
def serving(home: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    home.mkdir(parents=True, exist_ok=True)
    server = Server(home, home / "server.log", *arguments, env=env)
    try:
        yield server
    finally:
        server.stop()
