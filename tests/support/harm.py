"""Harm from within: what a real process is made to do by `saboteur/sitecustomize.py`, at the moment a test chooses."""

import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.support.server import wait_until

_GUILT = Path(__file__).parent / "saboteur"


class Harm:
    """Orders to processes that were started with `environment`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": f"{_GUILT}:{Path(__file__).parents[2]}", "SABOTEUR": str(self._folder)}

    def pids(self) -> list[int]:
        """Every process that was ever started with it, living or dead."""
        return [int(door.name) for door in self._folder.iterdir()]

    def poison(self, words: str, seconds: float) -> dict[str, str]:
        """An environment in which a worker dies of whatever has these words in it, so long after it got to read it."""
        return self.environment | {"SABOTEUR_POISON": words, "SABOTEUR_POISON_SECONDS": str(seconds)}

    def exit(self, pid: int, status: int) -> None:
        """End at once, without a word."""
        self._order(pid, f"exit {status}")

    def say(self, pid: int, words: bytes) -> None:
        """Have a worker send these bytes to its gateway."""
        self._order(pid, f"say {words.hex()}")

    def gasp(self, pid: int, words: bytes) -> None:
        """Have a worker send these bytes and end at once."""
        self._order(pid, f"gasp {words.hex()}")

    def starve(self, pid: int) -> None:
        """Take away all memory that it has not got yet."""
        self._order(pid, "starve")

    def feed(self, pid: int) -> None:
        """Give it back, if it still lives."""
        with suppress(ConnectionRefusedError):
            self._order(pid, "feed")

    def hang(self, worker: psutil.Process) -> None:
        """Have the model's thread stand still, and no other."""
        wait_until((self._folder / str(worker.pid)).exists, "the saboteur in it")
        worker.send_signal(signal.SIGUSR1)

    def leak(self, pid: int, mebibytes: int) -> None:
        """Take memory and never use it."""
        self._order(pid, f"leak {mebibytes}")

    def shift(self, pid: int, seconds: float) -> None:
        """Set its wall clock forward, or back."""
        self._order(pid, f"shift {seconds}")

    def _order(self, pid: int, words: str) -> None:
        door = self._folder / str(pid)
        wait_until(door.exists, f"the saboteur in {pid}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as orders:
            orders.sendto(words.encode(), str(door))


@contextmanager
def harm() -> Iterator[Harm]:
    # Not where pytest has its folders: addresses of sockets must be short on macOS.
    folder = Path(tempfile.mkdtemp(prefix="harm"))
    try:
        yield Harm(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
