"""Streams, hang-ups and deaf readers on connections that have become HTTP/2 by `Upgrade: h2c`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.h2c import H2cClient
from tests.support.server import Server, is_busy, serving, wait_until

ENDLESS = {"model": "tiny", "prompt": "bada", "options": {"num_predict": 20_000, "num_ctx": 8192}}
LOUD = {**ENDLESS, "logprobs": True, "top_logprobs": 20, "options": {"num_predict": 100}}


@pytest.fixture(scope="module")
def one_at_a_time(tiny_home: Path) -> Iterator[Server]:
    """One permit: whoever holds it keeps all others out."""
    limits = {
        "MLX_API_PROFILE": "guarded",
        "MLX_API_MAX_CONCURRENT": "1",
        "MLX_API_RATE_LIMIT": "0",
        "MLX_API_WRITE_TIMEOUT": "1",
    }
    with serving(tiny_home, env=limits) as server:
        assert server.post("/api/generate", {"model": "tiny"}).status_code == 200
        yield server


@pytest.fixture
def client(one_at_a_time: Server) -> Iterator[H2cClient]:
    client = H2cClient(one_at_a_time)
    yield client
    client.close()


def _is_free(server: Server) -> bool:
    body = {**ENDLESS, "stream": False, "options": {"num_predict": 1}}
    return server.post("/api/generate", body).status_code == 200


def _ask(client: H2cClient, body: dict[str, Any]) -> int:
    return client.ask("/api/generate", json.dumps(body).encode())


def test_the_first_request_is_answered_in_http_2(client: H2cClient) -> None:
    assert client.headers(1)[":status"] == "200"
    assert json.loads(b"".join(client.read(1))) == {"version": "0.33.0"}


def test_streams_come_piece_by_piece(client: H2cClient) -> None:
    stream = _ask(client, {**ENDLESS, "options": {"num_predict": 50}})
    head = client.headers(stream)
    assert (head[":status"], head["content-type"]) == ("200", "application/x-ndjson")
    pieces = list(client.read(stream))
    lines = [json.loads(line) for line in b"".join(pieces).splitlines()]
    assert len(pieces) > 1
    assert lines[-1]["eval_count"] == 50


def test_whole_answers_and_refusals_come_as_well(one_at_a_time: Server, client: H2cClient) -> None:
    stream = _ask(client, ENDLESS)
    assert next(client.read(stream))
    refused = _ask(client, ENDLESS)
    head = client.headers(refused)
    assert (head[":status"], head["x-mlx-ollama-setting"]) == ("503", "MLX_API_MAX_CONCURRENT")
    assert json.loads(b"".join(client.read(refused))) == {"error": "Server overloaded. Max 1 concurrent requests"}
    client.reset(stream)
    wait_until(lambda: _is_free(one_at_a_time), "the permit's return")
    whole = _ask(client, {**ENDLESS, "stream": False, "options": {"num_predict": 3}})
    assert client.headers(whole)[":status"] == "200"
    assert json.loads(b"".join(client.read(whole)))["eval_count"] == 3


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("whole_connection", [True, False])
def test_hanging_up_returns_the_permit(
    one_at_a_time: Server, client: H2cClient, stream: bool, whole_connection: bool
) -> None:
    asked = _ask(client, {**ENDLESS, "stream": stream})
    if stream:
        assert next(client.read(asked))
    else:
        (worker,) = one_at_a_time.workers()
        wait_until(lambda: is_busy(worker), "decoding")
    assert not _is_free(one_at_a_time)
    if whole_connection:
        client.close()
    else:
        client.reset(asked)
    wait_until(lambda: _is_free(one_at_a_time), "the permit's return")


def test_a_body_that_comes_after_its_answer_fills_no_log(one_at_a_time: Server, client: H2cClient) -> None:
    stream = client.ask("/nowhere", b"x", is_whole=False)
    assert client.headers(stream)[":status"] == "404"
    assert b"".join(client.read(stream))
    client.send(stream, b"y")
    assert client.is_cut()
    assert _is_free(one_at_a_time)
    assert "Traceback" not in one_at_a_time.log.read_text()


def test_a_window_that_stays_shut_is_a_reader_that_does_not_read(one_at_a_time: Server, client: H2cClient) -> None:
    """Hypercorn takes the whole answer whatever the window is; the end of it is what it cannot send."""
    stream = _ask(client, LOUD)
    assert client.headers(stream)[":status"] == "200"
    wait_until(lambda: _is_free(one_at_a_time), "the permit's return")
    assert client.is_cut()
    assert "Traceback" not in one_at_a_time.log.read_text()
