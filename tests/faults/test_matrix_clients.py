"""Clients that misbehave, and bodies and headers that are made to hurt."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlx_ollama.settings import MAX_BODY_BYTES
from tests.faults.standing import good_text, standing
from tests.support.server import Server, deaf, serving, wait_until

pytestmark = pytest.mark.xdist_group("matrix-clients")

CONNECTIONS = 2000
AT_ONCE = 200
LARGE_BYTES = 1 << 24
HEAD = b"POST /api/generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n"
PATHS = ("/api/generate", "/api/chat", "/api/create", "/v1/chat/completions", "/v1/responses", "/v1/messages")


@dataclass(frozen=True)
class Bench:
    server: Server
    good: str


@pytest.fixture(scope="module")
def bench(tiny_home: Path) -> Iterator[Bench]:
    short = {"MLX_API_WRITE_TIMEOUT": "1", "MLX_API_BODY_TIMEOUT": "1"}
    with serving(tiny_home, "--context-length", "8192", env=short) as server:
        yield Bench(server, good_text(server))


def _connect(server: Server) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=20)


def _answer(connection: socket.socket) -> bytes:
    answer = b""
    while piece := connection.recv(1 << 16):
        answer += piece
    return answer


@pytest.mark.fault("a slow reader", "decode", "answered: nothing is lost, nobody else waits")
def test_a_slow_reader(bench: Bench) -> None:
    body = {"model": "tiny", "prompt": "bada", "options": {"num_predict": 1500}}
    whole = bench.server.post("/api/generate", {**body, "stream": False}).json()["response"]
    with standing(bench.server, bench.good), deaf(bench.server, body) as connection:
        good_text(bench.server)
        connection.settimeout(20)
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += connection.recv(4096)
            time.sleep(0.005)
    lines = [json.loads(line) for line in received.partition(b"\r\n\r\n")[2].splitlines() if line.startswith(b"{")]
    assert "".join(line["response"] for line in lines) == whole
    assert lines[-1]["done"]


@pytest.mark.fault("a reader that stops", "decode", "hung up on after MLX_API_WRITE_TIMEOUT")
def test_a_reader_that_stops(bench: Bench) -> None:
    options = {"num_predict": 20_000}
    loud = {"model": "tiny", "prompt": "bada", "options": options, "logprobs": True, "top_logprobs": 20}
    with standing(bench.server, bench.good), deaf(bench.server, loud) as connection:
        wait_until(lambda: "took nothing for 1 s: hanging up" in bench.server.log.read_text(), "the end of patience")
        connection.settimeout(20)
        with pytest.raises(ConnectionError):
            _answer(connection)


@pytest.mark.fault("half a request, then the end", "before, in and after its head", "nothing")
def test_half_a_request_and_away(bench: Bench) -> None:
    with standing(bench.server, bench.good):
        for part in (b"", b"PO", HEAD[:40], HEAD, HEAD + b'{"model":"ti'):
            with _connect(bench.server) as connection:
                connection.sendall(part)


@pytest.mark.fault("half a request, then silence", "in its body", "told 408 after MLX_API_BODY_TIMEOUT")
def test_half_a_request_and_silence(bench: Bench) -> None:
    with standing(bench.server, bench.good), _connect(bench.server) as connection:
        connection.sendall(HEAD + b'{"model":"ti')
        answer = _answer(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"no more of the request body came for 1 seconds" in answer


@pytest.mark.fault(
    f"{CONNECTIONS} connections opened and closed", "with and without a request", "all of them are let go"
)
def test_thousands_of_connections(bench: Bench) -> None:
    gateway = psutil.Process(bench.server.process.pid)
    before = gateway.num_fds()
    with standing(bench.server, bench.good):
        for begun in range(0, CONNECTIONS, AT_ONCE):
            connections = [_connect(bench.server) for _ in range(AT_ONCE)]
            for number, connection in enumerate(connections):
                connection.sendall((b"", HEAD, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")[(begun + number) % 3])
                connection.close()
        wait_until(lambda: gateway.num_fds() <= before + 5, "the end of all connections")


BODIES = {
    "a body of 64 MiB and one byte": (b" " * (MAX_BODY_BYTES + 1), 413),
    "a body of 64 MiB that is one string": (b'{"model":"' + b"x" * (MAX_BODY_BYTES - 12) + b'"}', 400),
    "a JSON bomb: 20 million arrays": (b'{"options":[' + b"[]," * 20_000_000 + b"[]]}", 400),
    "a JSON bomb: 30 million numbers": (b'{"options":[' + b"0," * 30_000_000 + b"0]}", 400),
    "a JSON bomb: 4 million keys": (b"{" + b",".join(b'"%d":1' % number for number in range(4_300_000)) + b"}", 400),
    "a JSON bomb: 100,000 deep": (b'{"options":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    "a JSON bomb: 100,000 deep, without an end": (b'{"a":' * 100_000, 400),
}


def _row(fault: str, status: int) -> Any:
    # All dialects read JSON in one way; the large ones go through one door only, for the sake of time.
    where = "/api/generate" if len(BODIES[fault][0]) > LARGE_BYTES else "any dialect"
    mark = pytest.mark.fault(fault, where, f"told {status}")
    return pytest.param(*BODIES[fault], marks=mark, id=fault.replace(" ", "-"))


@pytest.mark.parametrize(("body", "status"), [_row(fault, status) for fault, (_, status) in BODIES.items()])
def test_bodies_that_are_bombs(bench: Bench, body: bytes, status: int) -> None:
    with standing(bench.server, bench.good):
        for path in PATHS[:1] if len(body) > LARGE_BYTES else PATHS:
            answer = bench.server.client.post(path, content=body)
            assert answer.status_code == status, answer.text[:200]
            assert answer.json()["error"]


HEADERS = {
    "a header of 3 MiB": b"x-long: " + b"x" * (3 << 20) + b"\r\n",
    "100,000 headers": b"".join(b"x-%d: y\r\n" % number for number in range(100_000)),
}


def _bomb(fault: str) -> Any:
    mark = pytest.mark.fault(f"a header bomb: {fault}", "any path", "told 431, or hung up on")
    return pytest.param(HEADERS[fault], marks=mark, id=fault.replace(" ", "-"))


@pytest.mark.parametrize("headers", [_bomb(fault) for fault in HEADERS])
def test_headers_that_are_bombs(bench: Bench, headers: bytes) -> None:
    with standing(bench.server, bench.good), _connect(bench.server) as connection:
        answer = b""
        # It may close while we are still writing, and what it has said is lost then.
        with suppress(ConnectionError):
            connection.sendall(b"GET /api/tags HTTP/1.1\r\nhost: localhost\r\n" + headers + b"\r\n")
            answer = _answer(connection)
        assert answer.partition(b"\r\n")[0].strip() in (b"", b"HTTP/1.1 431")
