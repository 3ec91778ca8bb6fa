"""A server at its limits: whom it refuses and how, and what becomes of clients that misbehave."""

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from tests.support.server import Server, deaf, is_busy, run_cli, serving, wait_until

ENDLESS = {"model": "tiny", "prompt": "bada", "options": {"num_predict": 20_000, "num_ctx": 8192}}
QUICK = {**ENDLESS, "stream": False, "options": {"num_predict": 1}}
GUARDED = {"MLX_API_PROFILE": "guarded"}


@contextmanager
def _guarded(home: Path, **limits: str) -> Iterator[Server]:
    env = GUARDED | {f"MLX_API_{name.upper()}": value for name, value in limits.items()}
    with serving(home, env=env) as server:
        # With a short deadline the first who ask are not answered; the load goes on.
        wait_until(lambda: server.post("/api/generate", {"model": "tiny"}).status_code == 200, "the load")
        yield server


def _read_all(connection: socket.socket) -> None:
    while connection.recv(1 << 16):
        pass


def test_five_at_once_and_questions_are_free(tiny_home: Path) -> None:
    with _guarded(tiny_home) as server, ExitStack() as streams:

        def begin() -> httpx.Response:
            begun = streams.enter_context(server.client.stream("POST", "/api/generate", json=ENDLESS))
            assert begun.status_code == 200
            return begun

        running = [begin() for _ in range(5)]
        for body in (ENDLESS, QUICK):
            refused = server.post("/api/generate", body)
            assert (refused.status_code, refused.json()) == (
                503,
                {"error": "Server overloaded. Max 5 concurrent requests"},
            )
            assert refused.headers["x-mlx-ollama-setting"] == "MLX_API_MAX_CONCURRENT"
            assert int(refused.headers["retry-after"]) >= 1
        messages = {"model": "tiny", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
        assert server.post("/v1/messages", messages).json()["error"]["type"] == "overloaded_error"
        with (
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client,
            pytest.raises(openai.InternalServerError, match="Max 5 concurrent requests"),
        ):
            client.completions.create(model="tiny", prompt="x")
        for path in ("/api/tags", "/api/ps", "/api/version", "/v1/models", "/"):
            assert server.client.get(path).status_code == 200
        assert server.post("/api/show", {"model": "tiny"}).status_code == 200
        assert server.post("/api/generate", {"model": "tiny", "keep_alive": 0}).json()["done_reason"] == "unload"
        for response in running[:2]:
            response.close()
        wait_until(lambda: server.post("/api/generate", QUICK).status_code == 200, "a permit's return")


def test_a_queue_is_waited_in(tiny_home: Path) -> None:
    with _guarded(tiny_home, max_concurrent="1", queue="1", queue_timeout="0.5") as server:
        with server.client.stream("POST", "/api/generate", json=ENDLESS):
            began = time.monotonic()
            waited = server.post("/api/generate", QUICK)
            assert waited.status_code == 503
            assert time.monotonic() - began >= 0.5
            assert waited.headers["x-mlx-ollama-setting"] == "MLX_API_QUEUE_TIMEOUT"
        wait_until(lambda: server.post("/api/generate", QUICK).status_code == 200, "a permit's return")


def test_one_after_the_other_there_is_always_room(tiny_home: Path) -> None:
    """A permit is back before the client can have read its answer and come again."""
    with _guarded(tiny_home, max_concurrent="1", rate_limit="0") as server:
        for header in ("close", "keep-alive") * 15:
            answer = server.client.post("/api/generate", json=QUICK, headers={"connection": header})
            assert answer.status_code == 200


def test_the_rate_of_an_address_is_limited(tiny_home: Path) -> None:
    with _guarded(tiny_home, rate_limit="3", trusted_proxies="127.0.0.1") as server:
        # The first was the load of the model.
        assert [server.post("/api/generate", QUICK).status_code for _ in range(2)] == [200, 200]
        refused = server.post("/api/generate", QUICK)
        assert (refused.status_code, refused.json()) == (429, {"error": "Rate limit exceeded"})
        assert refused.headers["x-mlx-ollama-setting"] == "MLX_API_RATE_LIMIT"
        assert 50 <= int(refused.headers["retry-after"]) <= 60
        assert server.client.get("/api/tags").status_code == 200
        with (
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client,
            pytest.raises(openai.RateLimitError, match="Rate limit exceeded"),
        ):
            client.completions.create(model="tiny", prompt="x")
        other = {"x-forwarded-for": "203.0.113.9"}
        assert server.client.post("/api/generate", json=QUICK, headers=other).status_code == 200


def test_answers_have_a_deadline(tiny_home: Path) -> None:
    text = "the answer took longer than 1 seconds (MLX_API_TIMEOUT)"
    with _guarded(tiny_home, timeout="1") as server:
        (worker,) = server.workers()
        *lines, last = server.lines("/api/generate", ENDLESS)
        assert last == {"error": text}
        assert len(lines) > 5
        assert not any(line["done"] for line in lines)
        wait_until(lambda: not is_busy(worker), "the engine's rest", seconds=10)
        late = server.post("/api/generate", {**ENDLESS, "stream": False})
        assert (late.status_code, late.json()) == (504, {"error": text})
        assert late.headers["x-mlx-ollama-setting"] == "MLX_API_TIMEOUT"
        wait_until(lambda: not is_busy(worker), "the engine's rest", seconds=10)


def test_a_permit_is_back_however_an_answer_ended(tiny_home: Path) -> None:
    """One permit: as long as it is out, nobody else is let in."""
    with _guarded(tiny_home, max_concurrent="1", rate_limit="0", timeout="2") as server:

        def is_as_before() -> bool:
            told = server.client.get("/health").json()
            return (told["active_requests"], told["queued_requests"], told["active_model_requests"]) == (0, 0, {})

        def died() -> None:
            with server.client.stream("POST", "/api/generate", json=ENDLESS) as response:
                lines = response.iter_lines()
                next(lines)
                server.workers()[0].kill()
                # It goes on in another worker, and is late.
                assert "MLX_API_TIMEOUT" in list(lines)[-1]

        def left() -> None:
            with server.client.stream("POST", "/api/generate", json=ENDLESS) as response:
                next(response.iter_lines())

        def was_late() -> None:
            assert server.lines("/api/generate", ENDLESS)[-1]["error"].endswith("(MLX_API_TIMEOUT)")

        def was_refused() -> None:
            assert server.post("/api/generate", {"model": "none", "prompt": "x"}).status_code == 404

        def unloaded() -> None:
            assert server.post("/api/generate", {**QUICK, "keep_alive": 0}).status_code == 200

        for end in (died, left, was_late, was_refused, unloaded):
            end()
            wait_until(is_as_before, f"the rest after {end.__name__}")
            # A load may take longer than an answer may; it goes on.
            wait_until(lambda: server.post("/api/generate", QUICK).status_code == 200, "an answer to the next")


def test_a_reader_that_takes_nothing_loses_everything(tiny_home: Path) -> None:
    loud = {**ENDLESS, "logprobs": True, "top_logprobs": 20, "keep_alive": 0}
    with _guarded(tiny_home, max_concurrent="1", write_timeout="1") as server:
        (worker,) = server.workers()
        with deaf(server, loud) as connection:
            # Its lease ends as well: nobody else keeps the model.
            wait_until(lambda: not worker.is_running(), "the model's unloading")
            # A permit is there: the request gets as far as its model.
            assert server.post("/api/generate", {"model": "none", "prompt": "x"}).status_code == 404
            connection.settimeout(10)
            with pytest.raises(ConnectionError):
                _read_all(connection)
        log = server.log.read_text()
        assert "took nothing for 1 s: hanging up (MLX_API_WRITE_TIMEOUT)" in log
        assert "Traceback" not in log


def test_too_many_at_the_door_are_refused_unread(tiny_home: Path) -> None:
    head = b"POST /api/generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3000000\r\n\r\n"
    with _guarded(tiny_home) as server, ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection((server.host, server.port), timeout=20))

        waiting = [connect() for _ in range(11)]
        for connection in waiting:
            connection.sendall(head)
        # Ten are in the house, and their bodies are waited for.
        (refused,), _, _ = select.select(waiting, [], [], 20)
        assert refused.recv(12) == b"HTTP/1.1 503"
        large = {"model": "tiny", "prompt": "x" * 3_000_000}
        for path in ("/api/generate", "/v1/completions"):
            answer = server.post(path, large)
            assert answer.status_code == 503
            assert "Max 5 concurrent requests" in answer.text
        assert server.client.get("/api/tags").status_code == 200


def test_clients_that_come_and_go_leave_nothing_behind(tiny: Server) -> None:
    """Nobody waits for the idle clock of a connection whose client has closed it."""
    gateway = psutil.Process(tiny.process.pid)
    assert tiny.client.get("/").status_code == 200
    before = gateway.num_fds()
    question = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
    for length in (len(question), 20, 0) * 20:
        with socket.create_connection((tiny.host, tiny.port), timeout=20) as connection:
            connection.sendall(question[:length])
            answer = b"" if length == len(question) else b"running"
            while not answer.endswith(b"running"):
                answer += connection.recv(4096)
    wait_until(lambda: gateway.num_fds() <= before, "the sockets' end", seconds=10)


def test_a_head_that_trickles_ends(tiny_home: Path) -> None:
    with _guarded(tiny_home, connection_keep_alive="1") as server:
        with socket.create_connection((server.host, server.port), timeout=10) as connection:
            began = time.monotonic()
            with suppress(ConnectionError):
                for byte in b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 100:
                    connection.sendall(bytes([byte]))
                    if select.select([connection], [], [], 0.1)[0]:
                        break
            assert connection.recv(10) == b""
            assert time.monotonic() - began < 10
        assert server.client.get("/").status_code == 200


def test_the_profile_is_the_origin_of_its_figures(tmp_path: Path) -> None:
    printed = run_cli("config", "--home", str(tmp_path), env={"MLX_API_PROFILE": "ollama", "MLX_API_TIMEOUT": "9"})
    rows = {line.split()[0]: line.split()[1:] for line in printed.stdout.splitlines()}
    assert rows["MLX_API_QUEUE"] == ["512", "0", "profile", "ollama"]
    assert rows["MLX_API_TIMEOUT"] == ["9", "300", "MLX_API_TIMEOUT"]
    assert rows["MLX_API_PROFILE"] == ["ollama", "guarded", "MLX_API_PROFILE"]
