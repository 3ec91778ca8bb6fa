"""Each policy around a small application, through ASGI."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from mlx_ollama import errors
from mlx_ollama.dialects.answers import REFUSAL_JSON
from mlx_ollama.doors import DECODERS, DOORS, refuse_of
from mlx_ollama.policies.decode import Decode
from mlx_ollama.policies.disconnect import CancelOnDisconnect
from mlx_ollama.policies.drain import Drain, InFlight
from mlx_ollama.policies.errors import STATUS, Errors
from mlx_ollama.policies.origin import Origin, host_name, is_local, matches
from mlx_ollama.policies.shortage import Shortage

Endpoint = Callable[[Request], Awaitable[Response]]


def _app(endpoint: Endpoint, *policies: Middleware, path: str = "/api/chat") -> ASGIApp:
    return Starlette(routes=[Route(path, endpoint, methods=["GET", "POST"])], middleware=list(policies))


def _ask(app: ASGIApp, method: str = "GET", path: str = "/api/chat", **options: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:1") as client:
            return await client.request(method, path, **options)

    return asyncio.run(ask())


async def _fine(request: Request) -> Response:
    return PlainTextResponse("fine")


def _raising(error: Exception) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        raise error

    return endpoint


def _origin(*origins: str, bind_host: str = "127.0.0.1") -> Middleware:
    return Middleware(Origin, origins=origins, bind_host=bind_host, allow_of=lambda path: "POST")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidRequest("no"), 400),
        (errors.Unsupported("no"), 400),
        (errors.PromptTooLong(), 400),
        (errors.CloudDisabled(), 403),
        (errors.ModelNotFound("no"), 404),
        (errors.TooLarge("no"), 413),
        (errors.InvalidOption("no"), 500),
        (errors.WorkerDied("no"), 500),
        (errors.ShuttingDown(), 503),
    ],
)
def test_errors_become_answers(error: errors.MlxOllamaError, status: int) -> None:
    answer = _ask(_app(_raising(error), Middleware(Errors, refuse_of=refuse_of)))
    assert (answer.status_code, answer.json()) == (status, {"error": error.message})
    assert answer.headers["content-type"] == REFUSAL_JSON


@pytest.mark.parametrize("path", DOORS)
@pytest.mark.parametrize(
    ("error", "status", "facts"),
    [
        (
            errors.Overloaded("no", setting="MLX_API_QUEUE", retry_after=7),
            503,
            {"x-mlx-ollama-setting": "MLX_API_QUEUE", "retry-after": "7"},
        ),
        (errors.RateLimited(retry_after=9), 429, {"x-mlx-ollama-setting": "MLX_API_RATE_LIMIT", "retry-after": "9"}),
        (
            errors.NoRoom("no", setting="MLX_API_MEMORY_CRITICAL", retry_after=10),
            503,
            {"x-mlx-ollama-setting": "MLX_API_MEMORY_CRITICAL", "retry-after": "10"},
        ),
        (errors.DeadlinePassed(300), 504, {"x-mlx-ollama-setting": "MLX_API_TIMEOUT"}),
        (errors.TooLarge("no"), 413, {"x-mlx-ollama-setting": "MLX_API_MAX_BODY"}),
        (errors.TooSlow("no"), 408, {"x-mlx-ollama-setting": "MLX_API_BODY_TIMEOUT"}),
        (errors.OutOfMemory("no"), 503, {}),
        (errors.Unauthorized(), 401, {"www-authenticate": "Bearer"}),
    ],
)
def test_a_refusal_says_the_same_to_every_dialect(
    path: str, error: errors.MlxOllamaError, status: int, facts: dict[str, str]
) -> None:
    answer = _ask(_app(_raising(error), Middleware(Errors, refuse_of=refuse_of), path=path), "POST", path)
    told = answer.json()["error"]
    assert (answer.status_code, told if path.startswith("/api/") else told["message"]) == (status, error.message)
    names = ("x-mlx-ollama-setting", "retry-after", "www-authenticate")
    assert {name: answer.headers[name] for name in names if name in answer.headers} == facts


def test_every_error_has_a_status() -> None:
    def descendants(kind: type[errors.MlxOllamaError]) -> list[type[errors.MlxOllamaError]]:
        return [kind, *(leaf for child in kind.__subclasses__() for leaf in descendants(child))]

    # What a command says of a server is never an answer of one.
    answers = (kind for kind in descendants(errors.MlxOllamaError)[1:] if "console" not in kind.__module__)
    for kind in answers:
        assert any(base in STATUS for base in kind.__mro__), kind


def test_our_own_faults_do_not_leak() -> None:
    answer = _ask(_app(_raising(ZeroDivisionError("secret")), Middleware(Errors, refuse_of=refuse_of)))
    assert (answer.status_code, answer.json()) == (500, {"error": "internal server error"})


def test_origins_of_the_operator_count() -> None:
    app = _app(_fine, _origin("https://ui.example", "chrome-extension://*"))
    for origin in ("https://ui.example", "chrome-extension://abc", "http://localhost:3000.evil.com"):
        answer = _ask(app, headers={"origin": origin})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)
        assert answer.headers["vary"] == "Origin"
    assert _ask(app, headers={"origin": "https://other.example"}).status_code == 403


def test_a_star_allows_everyone_and_does_not_vary() -> None:
    answer = _ask(_app(_fine, _origin("*")), "OPTIONS", headers={"origin": "https://x.example"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, "*")
    assert "vary" not in answer.headers
    assert answer.headers["access-control-max-age"] == "43200"


def test_the_host_check_is_for_loopback_servers() -> None:
    foreign = {"host": "example.com"}
    assert _ask(_app(_fine, _origin()), headers=foreign).status_code == 403
    assert _ask(_app(_fine, _origin(bind_host="0.0.0.0")), headers=foreign).status_code == 200


@pytest.mark.parametrize(
    ("host", "name", "local"),
    [
        ("localhost:11435", "localhost", True),
        ("[::1]:11435", "::1", True),
        ("[fd00::1]", "fd00::1", True),
        ("192.168.1.5:1", "192.168.1.5", True),
        ("8.8.8.8", "8.8.8.8", False),
        ("My-Mac.LOCAL", "My-Mac.LOCAL", True),
        ("evil-localhost", "evil-localhost", False),
        ("", "", True),
    ],
)
def test_hosts(host: str, name: str, local: bool) -> None:
    assert (host_name(host), is_local(name)) == (name, local)


def test_wildcards_look_at_both_ends() -> None:
    assert matches("http://localhost:*", "http://localhost:1")
    assert matches("app://*", "app://")
    assert not matches("http://a*b", "http://ab".replace("ab", "b"))
    assert not matches("aXX*XXa", "aXXa")


def test_bodies_are_bounded_and_read_to_their_end() -> None:
    app = _app(
        _fine,
        Middleware(Errors, refuse_of=refuse_of),
        Middleware(Decode, decoders=DECODERS, max_body=1000, timeout=0.2),
    )
    answer = _ask(app, "POST", content=b"x" * 5000)
    assert answer.status_code == 413
    assert "5000 bytes, the limit is 1000 (MLX_API_MAX_BODY)" in answer.json()["error"]


def test_a_body_that_stops_arriving_is_given_up() -> None:
    async def run() -> list[Message]:
        sent: list[Message] = []
        parts: list[Message] = [{"type": "http.request", "body": b'{"mod', "more_body": True}]

        async def receive() -> Message:
            return parts.pop(0) if parts else await asyncio.get_running_loop().create_future()

        async def send(message: Message) -> None:
            sent.append(message)

        policy = Errors(Decode(_app(_fine), decoders=DECODERS, max_body=1000, timeout=0.01), refuse_of=refuse_of)
        await policy({"type": "http", "path": "/api/chat", "method": "POST", "headers": []}, receive, send)
        return sent

    start, body = asyncio.run(run())
    assert (start["status"], body["body"]) == (408, b'{"error":"no more of the request body came for 0.01 seconds"}')


def test_a_body_that_never_ends_well_is_no_call() -> None:
    async def run() -> list[Message]:
        sent: list[Message] = []
        parts: list[Message] = [
            {"type": "http.request", "body": b'{"mod', "more_body": True},
            {"type": "http.disconnect"},
        ]

        async def receive() -> Message:
            return parts.pop(0)

        async def send(message: Message) -> None:
            sent.append(message)

        policy = Decode(_app(_fine), decoders=DECODERS, max_body=1000, timeout=0.2)
        await policy({"type": "http", "path": "/api/chat", "method": "POST", "headers": []}, receive, send)
        return sent

    assert asyncio.run(run()) == []


def test_no_new_answers_while_draining() -> None:
    async def run() -> tuple[bool, int]:
        in_flight = InFlight()
        in_flight.enter()
        waiting = asyncio.ensure_future(in_flight.idle())
        await asyncio.sleep(0)
        in_flight.closed = True
        began_idle = waiting.done()
        in_flight.leave()
        await waiting
        return began_idle, in_flight.count

    assert asyncio.run(run()) == (False, 0)

    async def closed() -> InFlight:
        in_flight = InFlight()
        in_flight.closed = True
        return in_flight

    decode = Middleware(Decode, decoders=DECODERS, max_body=1000, timeout=0.2)
    app = _app(
        _fine, Middleware(Errors, refuse_of=refuse_of), decode, Middleware(Drain, in_flight=asyncio.run(closed()))
    )
    answer = _ask(app, "POST", content=b'{"model":"x"}')
    assert (answer.status_code, answer.json()) == (503, {"error": "server is shutting down"})
    assert _ask(app, "GET").status_code == 200


def test_a_client_that_leaves_cancels_the_work() -> None:
    async def run() -> str:
        outcome = "never started"
        started = asyncio.Event()

        async def work(scope: Any, receive: Any, send: Any) -> None:
            nonlocal outcome
            started.set()
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                outcome = "cancelled"
                raise

        async def receive() -> Message:
            await started.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            raise AssertionError("nobody is there")

        await CancelOnDisconnect(work, uploads="/up/")(
            {"type": "http", "method": "POST", "path": "/", "state": {"call": object()}}, receive, send
        )
        return outcome

    assert asyncio.run(run()) == "cancelled"


def test_failures_inside_reach_the_outside() -> None:
    async def run() -> None:
        async def work(scope: Any, receive: Any, send: Any) -> None:
            raise errors.WorkerDied("gone")

        async def receive() -> Message:
            await asyncio.sleep(3600)
            raise AssertionError("unreachable")

        async def send(message: Message) -> None: ...

        await CancelOnDisconnect(work, uploads="/up/")(
            {"type": "http", "method": "POST", "path": "/", "state": {"call": object()}}, receive, send
        )

    with pytest.raises(errors.WorkerDied):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), 503),
        (RuntimeError("[malloc] Unable to allocate 64 bytes."), 503),
        (RuntimeError("anything else"), 500),
        (errors.WorkerDied("no"), 500),
    ],
)
def test_memory_that_runs_out_in_the_gateway_is_an_alarm(error: Exception, status: int) -> None:
    alarms: list[str] = []
    policies = [Middleware(Errors, refuse_of=refuse_of), Middleware(Shortage, alarm=alarms.append)]
    assert _ask(_app(_raising(error), *policies)).status_code == status
    assert len(alarms) == (status == 503)
