"""Clients that misbehave, and bodies and headers that are made to hurt."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.clients import (
    BODIES,
    CONNECTIONS,
    HEADERS,
    LARGE_BYTES,
    body_bomb,
    half_a_request_and_away,
    half_a_request_and_silence,
    header_bomb,
    stopped_reader,
    texts,
    thousands_of_connections,
)
from tests.faults.scenes import rest
from tests.faults.standing import HUNG_UP, good_text, standing
from tests.support.server import Server, deaf, serving, wait_until

pytestmark = pytest.mark.xdist_group("matrix-clients")


@dataclass(frozen=True)
class Bench:
    server: Server
    good: str


@pytest.fixture(scope="module")
def bench(tiny_home: Path) -> Iterator[Bench]:
    short = {"MLX_API_WRITE_TIMEOUT": "1", "MLX_API_BODY_TIMEOUT": "1"}
    with serving(tiny_home, "--context-length", "8192", env=short) as server:
        yield Bench(server, good_text(server))


@pytest.mark.fault("a slow reader", "decode", "answered: nothing is lost, nobody else waits")
def test_a_slow_reader(bench: Bench) -> None:
    body = {"model": "tiny", "prompt": "bada", "options": {"num_predict": 800}}
    whole = bench.server.post("/api/generate", {**body, "stream": False}).json()["response"]
    with standing(bench.server, bench.good), deaf(bench.server, body) as connection:
        good_text(bench.server)
        connection.settimeout(20)
        text, last = texts(rest(connection, 4096, 0.005))
    assert text == whole
    assert last["done"]


@pytest.mark.fault("a reader that stops", "decode", f"{HUNG_UP} after MLX_API_WRITE_TIMEOUT")
def test_a_reader_that_stops(bench: Bench) -> None:
    with standing(bench.server, bench.good), stopped_reader(bench.server) as under_way:
        wait_until(lambda: "took nothing for 1 s: hanging up" in bench.server.log.read_text(), "the end of patience")
        assert under_way.outcome() == HUNG_UP


@pytest.mark.fault("half a request, then the end", "before, in and after its head", "nothing")
def test_half_a_request_and_away(bench: Bench) -> None:
    with standing(bench.server, bench.good), half_a_request_and_away(bench.server):
        pass


@pytest.mark.fault("half a request, then silence", "in its body", "told 408 after MLX_API_BODY_TIMEOUT")
def test_half_a_request_and_silence(bench: Bench) -> None:
    with standing(bench.server, bench.good), half_a_request_and_silence(bench.server) as under_way:
        assert under_way.outcome() == "told 408"


@pytest.mark.fault(
    f"{CONNECTIONS} connections opened and closed", "with and without a request", "all of them are let go"
)
def test_thousands_of_connections(bench: Bench) -> None:
    gateway = psutil.Process(bench.server.process.pid)
    before = gateway.num_fds()
    with standing(bench.server, bench.good):
        with thousands_of_connections(bench.server) as under_way:
            under_way.outcome()
        wait_until(lambda: gateway.num_fds() <= before + 5, "the end of all connections")


def _row(bomb: str, status: int) -> Any:
    where = "/api/generate" if len(BODIES[bomb][0]) > LARGE_BYTES else "any dialect"
    mark = pytest.mark.fault(bomb, where, f"told {status}")
    return pytest.param(bomb, status, marks=mark, id=bomb.replace(" ", "-"))


@pytest.mark.parametrize(("bomb", "status"), [_row(bomb, status) for bomb, (_, status) in BODIES.items()])
def test_bodies_that_are_bombs(bench: Bench, bomb: str, status: int) -> None:
    with standing(bench.server, bench.good), body_bomb(bomb)(bench.server) as under_way:
        assert under_way.outcome() == f"told {status}"


def _bomb(bomb: str) -> Any:
    mark = pytest.mark.fault(bomb, "any path", f"told 431, or {HUNG_UP}")
    return pytest.param(bomb, marks=mark, id=bomb.replace(" ", "-"))


@pytest.mark.parametrize("bomb", [_bomb(bomb) for bomb in HEADERS])
def test_headers_that_are_bombs(bench: Bench, bomb: str) -> None:
    with standing(bench.server, bench.good), header_bomb(bomb)(bench.server) as under_way:
        assert under_way.outcome() in ("told 431", HUNG_UP)
