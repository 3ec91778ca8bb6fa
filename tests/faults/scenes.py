"""Faults as scenes: brought about, under way, over. What comes after is up to whoever plays them."""

import json
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import TypeAlias

from tests.faults.standing import ANSWERED, HUNG_UP, TOLD
from tests.support.server import Server

NOTHING = "nothing"


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class UnderWay:
    """A fault that is under way: `outcome` waits for what comes of it, in words. What must happen at the last moment,
    once every other scene is set, is done by `go`.
    """

    outcome: Callable[[], str]
    go: Callable[[], None] = _nothing


Scene: TypeAlias = Callable[[Server], AbstractContextManager[UnderWay]]
Scenes: TypeAlias = Mapping[str, Scene]


def connect(server: Server) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=30)


def post(server: Server, path: str, length: int) -> socket.socket:
    """A request whose body is to come."""
    connection = connect(server)
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    connection.sendall(head.encode())
    return connection


def rest(connection: socket.socket, at_once: int = 1 << 16, pause: float = 0.0) -> bytes:
    """What comes until the other side has closed the connection."""
    received = b""
    with suppress(ConnectionError):
        while piece := connection.recv(at_once):
            received += piece
            time.sleep(pause)
    return received


def in_words(received: bytes) -> str:
    """What an answer was: in full, told with a status or in its last line; hung up on, if it was none."""
    head, _, body = received.partition(b"\r\n\r\n")
    if not head:
        return HUNG_UP
    status = head.split()[1].decode()
    if status != "200":
        return f"{TOLD} {status}"
    if not body.endswith(b"0\r\n\r\n"):
        return HUNG_UP
    last = json.loads([line for line in body.splitlines() if line.startswith(b"{")][-1])
    assert last.get("done") or last.get("status") == "success" or set(last) == {"error"}
    return f"{TOLD} in the last line" if "error" in last else ANSWERED
