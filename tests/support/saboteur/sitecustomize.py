"""On PYTHONPATH, this lets a test do harm inside a real gateway or worker, as `tests/support/harm.py` orders."""

import os
import resource
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

_DOOR = Path(os.environ["SABOTEUR"]) / str(os.getpid())
_HOARD_PIECES = (1 << 24, 1 << 20, 1 << 16, 1 << 12, 1 << 9)
_RESERVE_BYTES = 1 << 15
_hoard: list[bytes] = []


def _exit(status: str) -> None:
    os._exit(int(status))


def _say(hexadecimal: str) -> None:
    """Bytes into the socket to the gateway, between two frames or within one."""
    os.write(_socket(), bytes.fromhex(hexadecimal))


def _gasp(hexadecimal: str) -> None:
    """These as its last words: a second order would find it dead if its gateway were quicker to act upon them."""
    _say(hexadecimal)
    _exit("1")


def _starve(how: str) -> None:
    """Take all memory that this process can still get."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    # What this thread needs to be told that it is over.
    reserve = bytes(_RESERVE_BYTES)
    resource.setrlimit(resource.RLIMIT_AS, (used, most))
    for size in _HOARD_PIECES:
        with suppress(MemoryError):
            while True:
                _hoard.append(bytes(size))
    del reserve


def _feed(how: str) -> None:
    """Give it back."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    _hoard.clear()


def _leak(mebibytes: str) -> None:
    """Hold memory that nobody uses, as libraries do that forget to free it."""
    # No byte is nothing, or the system would not give a page for it before somebody writes there.
    _hoard.append(b"x" * (int(mebibytes) << 20))


def _shift(seconds: str) -> None:
    """Set the wall clock of this process, by so much; the monotonic clock is nobody's to set."""
    by = float(seconds)
    wall, wall_ns = time.time, time.time_ns
    setattr(time, "time", lambda: wall() + by)  # noqa: B010 - it is nobody's attribute to assign otherwise
    setattr(time, "time_ns", lambda: wall_ns() + int(by * 1e9))  # noqa: B010 - see above


_DEEDS = {
    "exit": _exit,
    "say": _say,
    "gasp": _gasp,
    "starve": _starve,
    "feed": _feed,
    "leak": _leak,
    "shift": _shift,
}


def _socket() -> int:
    return int(sys.orig_argv[sys.orig_argv.index("--fd") + 1])


def _be_poisonable(poison: bytes, seconds: float) -> None:
    """Whatever has these words in it is the end of whoever reads it, as Metal would end it: so long afterwards."""
    import orjson  # noqa: PLC0415 - most processes have no use for it here

    read = orjson.loads

    def taste(body: bytes) -> object:
        if poison in bytes(body):
            threading.Timer(seconds, os.abort).start()
        return read(body)

    setattr(orjson, "loads", taste)  # noqa: B010 - it is nobody's attribute to assign otherwise


def _listen() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as orders:
        orders.bind(str(_DOOR))
        words = bytearray(1 << 16)
        while True:
            size = orders.recv_into(words)
            deed, _, how = words[:size].decode().partition(" ")
            _DEEDS[deed](how)


def _hang(number: int, frame: FrameType | None) -> None:
    """The main thread, which is the model's, goes no further; the others do, unless it has what they wait for."""
    inner = frame
    while inner is not None:
        if inner.f_code.co_filename.endswith("inbox.py"):
            os.kill(os.getpid(), number)
            return
        inner = inner.f_back
    time.sleep(1 << 20)


if "mlx_ollama.worker" in sys.orig_argv:
    # Handlers run in the main thread, wherever it is.
    signal.signal(signal.SIGUSR1, _hang)

if {"mlx_ollama", "mlx_ollama.worker"} & set(sys.orig_argv):
    threading.Thread(target=_listen, daemon=True).start()
if "mlx_ollama.worker" in sys.orig_argv and "SABOTEUR_POISON" in os.environ:
    _be_poisonable(os.environ["SABOTEUR_POISON"].encode(), float(os.environ["SABOTEUR_POISON_SECONDS"]))
