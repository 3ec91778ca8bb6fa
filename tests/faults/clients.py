"""Clients that misbehave, and bodies and headers that are made to hurt, as scenes."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from mlx_ollama.settings import MAX_BODY_BYTES
from tests.faults.scenes import NOTHING, Scene, UnderWay, connect, in_words, post, rest
from tests.support.server import Server, deaf

CONNECTIONS = 2000
AT_ONCE = 200
LARGE_BYTES = 1 << 24
HEAD = b"POST /api/generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n"
PATHS = ("/api/generate", "/api/chat", "/api/create", "/v1/chat/completions", "/v1/responses", "/v1/messages")


@contextmanager
def slow_reader(server: Server) -> Iterator[UnderWay]:
    body = {"model": "tiny", "prompt": "bada", "options": {"num_predict": 7000}}
    with deaf(server, body) as connection:
        connection.settimeout(30)
        yield UnderWay(lambda: in_words(rest(connection, 4096, 0.005)))


@contextmanager
def stopped_reader(server: Server) -> Iterator[UnderWay]:
    """It wants more than any buffer holds, and takes none of it before it is too late."""
    options = {"num_predict": 20_000}
    loud = {"model": "tiny", "prompt": "bada", "options": options, "logprobs": True, "top_logprobs": 20}
    with deaf(server, loud) as connection:
        connection.settimeout(30)
        yield UnderWay(lambda: in_words(rest(connection)))


@contextmanager
def half_a_request_and_away(server: Server) -> Iterator[UnderWay]:
    with ExitStack() as stack:
        for part in (b"", b"PO", HEAD[:40], HEAD, HEAD + b'{"model":"ti'):
            stack.enter_context(connect(server)).sendall(part)
        yield UnderWay(lambda: NOTHING, stack.close)


@contextmanager
def half_a_request_and_silence(server: Server) -> Iterator[UnderWay]:
    with connect(server) as connection:
        connection.sendall(HEAD + b'{"model":"ti')
        yield UnderWay(lambda: in_words(rest(connection)))


@contextmanager
def thousands_of_connections(server: Server) -> Iterator[UnderWay]:
    def come_and_go() -> None:
        for begun in range(0, CONNECTIONS, AT_ONCE):
            with ExitStack() as stack:
                connections = [stack.enter_context(connect(server)) for _ in range(AT_ONCE)]
                for number, connection in enumerate(connections):
                    connection.sendall((b"", HEAD, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")[(begun + number) % 3])
                    connection.close()

    def come_and_go_while_it_listens() -> None:
        with suppress(ConnectionError):
            come_and_go()

    def outcome() -> str:
        coming.join()
        return NOTHING

    coming = threading.Thread(target=come_and_go_while_it_listens)
    coming.start()
    yield UnderWay(outcome)
    coming.join()


BODIES: Mapping[str, tuple[bytes, int]] = {
    "a body of 64 MiB and one byte": (b" " * (MAX_BODY_BYTES + 1), 413),
    "a body of 64 MiB that is one string": (b'{"model":"' + b"x" * (MAX_BODY_BYTES - 12) + b'"}', 400),
    "a JSON bomb: 20 million arrays": (b'{"options":[' + b"[]," * 20_000_000 + b"[]]}", 400),
    "a JSON bomb: 30 million numbers": (b'{"options":[' + b"0," * 30_000_000 + b"0]}", 400),
    "a JSON bomb: 4 million keys": (b"{" + b",".join(b'"%d":1' % number for number in range(4_300_000)) + b"}", 400),
    "a JSON bomb: 100,000 deep": (b'{"options":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    "a JSON bomb: 100,000 deep, without an end": (b'{"a":' * 100_000, 400),
}


def doors(bomb: str) -> tuple[str, ...]:
    """All dialects read JSON in one way; the large ones go through one door only, for the sake of time."""
    return PATHS[:1] if len(BODIES[bomb][0]) > LARGE_BYTES else PATHS


def body_bomb(bomb: str) -> Scene:
    """Half of it is there; the other half comes when the outcome is asked for."""
    body, _ = BODIES[bomb]

    @contextmanager
    def scene(server: Server) -> Iterator[UnderWay]:
        with ExitStack() as stack:
            connections = [stack.enter_context(post(server, path, len(body))) for path in doors(bomb)]

            def outcome() -> str:
                found = set()
                for connection in connections:
                    with suppress(ConnectionError):
                        connection.sendall(body[len(body) // 2 :])
                    received = rest(connection)
                    assert not received or json.loads(received.partition(b"\r\n\r\n")[2])["error"]
                    found.add(in_words(received))
                return " or ".join(sorted(found))

            for connection in connections:
                with suppress(ConnectionError):
                    connection.sendall(body[: len(body) // 2])
            yield UnderWay(outcome)

    return scene


HEADERS: Mapping[str, bytes] = {
    "a header bomb: a header of 3 MiB": b"x-long: " + b"x" * (3 << 20) + b"\r\n",
    "a header bomb: 100,000 headers": b"".join(b"x-%d: y\r\n" % number for number in range(100_000)),
}


def header_bomb(bomb: str) -> Scene:
    """Half of it is there, as above; the server may close while the rest is being written."""
    headers = HEADERS[bomb]

    @contextmanager
    def scene(server: Server) -> Iterator[UnderWay]:
        with connect(server) as connection:

            def outcome() -> str:
                with suppress(ConnectionError):
                    connection.sendall(headers[1000:] + b"\r\n")
                return in_words(rest(connection))

            connection.sendall(b"GET /api/tags HTTP/1.1\r\nhost: localhost\r\n" + headers[:1000])
            yield UnderWay(outcome)

    return scene


def texts(received: bytes) -> tuple[str, Any]:
    """What a stream has said, and its last line."""
    lines = [json.loads(line) for line in received.partition(b"\r\n\r\n")[2].splitlines() if line.startswith(b"{")]
    return "".join(line.get("response", "") for line in lines), lines[-1]
