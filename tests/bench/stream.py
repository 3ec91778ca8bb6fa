"""An answer on its way from a server, and when its first text came."""

import json
import select
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from tests.bench.jobs import Answer

RECEIVED = 1 << 18


class Stream:
    """A request that was sent just now; `take` whenever something may have arrived.

    Heartbeats, roles and headers are no text: what counts is what a reader sees.
    """

    def __init__(self, port: int, path: str, body: dict[str, Any]) -> None:
        self._began = time.perf_counter()
        self.connection = send(port, path, body)
        self.done = False
        self._rest = b""
        self._first: float | None = None
        self._text = ""

    @property
    def started(self) -> bool:
        return self._first is not None

    @property
    def answer(self) -> Answer:
        assert self._first is not None, f"no text in the answer: {self._rest!r}"
        return Answer(self._first, self._text)

    def take(self) -> None:
        with suppress(BlockingIOError):
            while piece := self.connection.recv(RECEIVED):
                self._read(piece)
            self.close()

    def close(self) -> None:
        """Hang up; a server takes that for a cancellation if it is not done."""
        self.done = True
        self.connection.close()

    def _read(self, piece: bytes) -> None:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for said in map(_said, lines):
            if said and self._first is None:
                self._first = time.perf_counter() - self._began
            self._text += said


def send(port: int, path: str, body: dict[str, Any]) -> socket.socket:
    """A connection on which a request was sent, and that does not block; the server closes it after its answer."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {len(content)}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(head.encode() + content)
    connection.setblocking(False)
    return connection


def pump(streams: Iterable[Stream], seconds: float) -> None:
    """Take what has arrived, waiting for it for `seconds` at most."""
    running = {stream.connection: stream for stream in streams if not stream.done}
    if not running:
        time.sleep(seconds)
        return
    ready, _, _ = select.select(list(running), [], [], seconds)
    for connection in ready:
        running[connection].take()


def _said(line: bytes) -> str:
    """The text of a line of Ollama's chat, or of OpenAI's."""
    line = line.removeprefix(b"data:").strip()
    if not line.startswith(b"{"):
        return ""
    event = json.loads(line)
    assert "error" not in event, event
    if "message" in event:
        return str(event["message"]["content"])
    choices = event.get("choices") or [{}]
    return str(choices[0].get("delta", {}).get("content") or "")
