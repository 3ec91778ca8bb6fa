"""The gateway as its supervisor sees it: a process that tells its address, answers or not, and ends."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from mlx_ollama.lifeline import FLAG

HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\nuser-agent: mlx-ollama-supervise\r\nconnection: close\r\n\r\n"
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where such a gateway is asked from here
UNAVAILABLE = 503
"""It starts or drains, and says so: alive."""

STANDARD_ERROR = 2
LONGEST_ANSWER_BYTES = 4096


class GatewayProcess:
    """A running `mlx-ollama serve`, from `start` to its end.

    It has a session of its own: what a terminal sends to everyone reaches it through its supervisor alone. `line` is
    the supervisor's end of a socket: the gateway tells its address there, and when it closes, drains and ends.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", line: socket.socket) -> None:
        self.address = ""
        self.line = line
        self._process = process
        self._heard = b""

    @classmethod
    def start(cls, flags: Sequence[str]) -> "GatewayProcess":
        """Start a gateway with these flags of `serve`.

        Raises:
            OSError: if there can be no new process.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-m", "mlx_ollama", "serve", *flags, f"{FLAG}={theirs.fileno()}"],
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                    stdin=subprocess.DEVNULL,
                    # Standard output is for events.
                    stdout=STANDARD_ERROR,
                )
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        return cls(process, ours)

    @property
    def pid(self) -> int:
        return self._process.pid

    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def listen(self) -> bool:
        """Take what it has told; whether there may be more to come."""
        try:
            heard = self.line.recv(LONGEST_ANSWER_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._heard += heard
        if not self.address and b"\n" in self._heard:
            self.address = self._heard.partition(b"\n")[0].decode()
        return bool(heard)

    def answers(self, within: float) -> bool:
        """Whether it gives an HTTP answer to `GET /health` within so many seconds, other than a fault of its own."""
        parts = urlsplit(self.address)
        host = parts.hostname or ""
        deadline = time.monotonic() + within
        try:
            with socket.create_connection((EVERYWHERE.get(host, host), parts.port or 0), within) as connection:
                connection.sendall(HEALTH)
                answer = b""
                while b"\r\n" not in answer and len(answer) < LONGEST_ANSWER_BYTES:
                    connection.settimeout(max(0.001, deadline - time.monotonic()))
                    received = connection.recv(LONGEST_ANSWER_BYTES)
                    if not received:
                        return False
                    answer += received
        except OSError:
            return False
        return _is_alive(answer)

    def send(self, name: int) -> None:
        """Send it a signal; quiet if it has ended."""
        with suppress(ProcessLookupError):
            self._process.send_signal(name)

    def kill(self) -> None:
        """End it without asking, and wait until it is gone."""
        self.send(signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """Let go of a process that has ended."""
        self.line.close()


def _is_alive(answer: bytes) -> bool:
    version, _, rest = answer.partition(b" ")
    code = rest[:3]
    if not version.startswith(b"HTTP/1.") or not code.isdigit():
        return False
    return int(code) < 500 or int(code) == UNAVAILABLE  # noqa: PLR2004 - from here on HTTP's faults of a server
