"""A real supervisor with a real gateway, quick enough for tests."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.processes import children
from tests.support.server import PATIENT, clean_environment, wait_until

QUICK = {
    **PATIENT,
    "MLX_API_SUPERVISE_INTERVAL": "0.2",
    "MLX_API_SUPERVISE_TIMEOUT": "1",
    "MLX_API_SUPERVISE_BACKOFF": "0.05",
    "MLX_API_SUPERVISE_GRACE": "0.5",
    "MLX_API_SUPERVISE_BREAKER_OPEN": "0.3",
}


class Supervised:
    """A running `mlx-ollama supervise`; what it says is in `out`, what it and its gateway complain about in `log`."""

    def __init__(self, home: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home, self.out, self.log = home, home / "supervise.out", home / "supervise.log"
        with self.out.open("wb") as out, self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlx_ollama", "supervise", "--home", str(home), *arguments],
                env=clean_environment() | QUICK | dict(env or {}),
                stdout=out,
                stderr=log,
                start_new_session=True,
            )

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """What it has told so far, or of that the events of these kinds."""
        told = [json.loads(line) for line in self.out.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [event for event in told if not kinds or event["event"] in kinds]

    def event(self, kind: str, nth: int = 1) -> dict[str, Any]:
        """The nth event of a kind, as soon as there is one."""
        found = wait_until(lambda: self.events(kind)[nth - 1 : nth], f"event {kind} number {nth}", 60)
        return dict(found[0])

    def gateways(self) -> list[psutil.Process]:
        return children(psutil.Process(self.process.pid), "serve")

    def get(self, path: str) -> httpx.Response:
        address = self.events("ready", "recovered")[-1]["address"]
        return httpx.get(address + path, timeout=30, trust_env=False)

    def post(self, path: str, body: Any) -> Any:
        address = self.events("ready", "recovered")[-1]["address"]
        return httpx.post(address + path, json=body, timeout=60, trust_env=False).json()

    def stop(self, name: int = signal.SIGTERM) -> int:
        self.process.send_signal(name)
        return self.process.wait(60)


@contextmanager
def supervised(home: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Supervised]:
    supervisor = Supervised(home, *(arguments or ("--port", "0")), env=env)
    try:
        yield supervisor
    finally:
        if supervisor.process.poll() is None:
            for gateway in supervisor.gateways():
                gateway.kill()
            supervisor.process.kill()
            supervisor.process.wait(30)


def is_gone(pid: int) -> bool:
    """Whether a process of that id has ended, if only its parent has yet to hear of it."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
