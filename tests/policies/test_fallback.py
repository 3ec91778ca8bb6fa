"""The fallback around a small application: what goes out, what comes back, and what happens when nothing does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import orjson
import pytest
import respx
from backports import zstd
from starlette.types import ASGIApp, Receive, Scope, Send

from mlx_ollama.doors import DECODERS, last_words_of, refuse_of
from mlx_ollama.errors import InvalidRequest, LoadFailed, MlxOllamaError, ModelNotFound, Overloaded, ShuttingDown
from mlx_ollama.policies.decode import Decode
from mlx_ollama.policies.disconnect import CancelOnDisconnect
from mlx_ollama.policies.errors import Errors
from mlx_ollama.policies.fallback import Fallback
from mlx_ollama.policies.merge import MergedLists
from mlx_ollama.store_routes import UPLOADS
from mlx_ollama.supervision import CircuitBreaker
from mlx_ollama.upstream import Upstream

URL = "http://upstream.test:11434"
CHAT = b'{ "model":"theirs", "messages":[] , "x": "\xc3\xb6"}'
MISSING = ModelNotFound("model 'theirs' not found")
BUSY = Overloaded("Server overloaded. Max 5 concurrent requests", setting="MLX_API_MAX_CONCURRENT", retry_after=7)


class _Bytes(httpx.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content


Inner = Callable[[Scope, Receive, Send], Awaitable[None]]


def _raising(error: Exception, *, after: bytes = b"") -> Inner:
    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        if after:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": after, "more_body": True})
        raise error

    return inner


def _saying(body: bytes, status: int = 200, **headers: str) -> Inner:
    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        pairs.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": body})

    return inner


def _around(inner: Inner, upstream: Upstream) -> ASGIApp:
    merged = MergedLists(Fallback(inner, upstream=upstream, last_words_of=last_words_of), upstream=upstream)
    decode = Decode(CancelOnDisconnect(merged, uploads=UPLOADS), decoders=DECODERS, max_body=1 << 20, timeout=1.0)
    return Errors(decode, refuse_of=refuse_of)


def _ask(
    inner: Inner, path: str = "/api/chat", content: bytes | None = CHAT, upstream: Upstream | None = None, **rest: Any
) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(_around(inner, upstream or Upstream(URL)))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:1") as client:
            return await client.request("GET" if content is None else "POST", path, content=content, **rest)

    return asyncio.run(ask())


@respx.mock
def test_a_request_goes_out_as_it_came() -> None:
    route = respx.post(f"{URL}/api/chat").mock(return_value=httpx.Response(200))
    headers = {
        "user-agent": "a/1",
        "authorization": "Bearer x",
        "accept-encoding": "br",
        "x-custom": "\u00f6",
        "cookie": "a=b",
        "origin": "http://localhost:1",
        "connection": "close, X-Private",
        "x-private": "1",
        "te": "trailers",
    }
    sent = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    _ask(_raising(MISSING), "/api/chat?a=%20b&c", headers=sent)
    request = route.calls.last.request
    assert request.url == f"{URL}/api/chat?a=%20b&c"
    assert request.content == CHAT
    assert dict(request.headers.raw) == {
        b"Host": b"upstream.test:11434",
        b"Content-Length": str(len(CHAT)).encode(),
        b"user-agent": b"a/1",
        b"accept": b"*/*",
        b"authorization": b"Bearer x",
        b"accept-encoding": b"br",
        b"x-custom": b"\xf6",
        b"x-mlx-ollama-hop": b"1",
    }


@respx.mock
def test_a_packed_body_goes_out_packed() -> None:
    route = respx.post(f"{URL}/v1/responses").mock(return_value=httpx.Response(200, text="theirs"))
    packed = zstd.compress(b'{"model":"theirs","input":"x"}')
    assert _ask(_raising(MISSING), "/v1/responses", packed, headers={"content-encoding": "zstd"}).text == "theirs"
    request = route.calls.last.request
    assert (request.content, request.headers["content-encoding"]) == (packed, "zstd")


@respx.mock
def test_keys_of_ours_stay_here() -> None:
    route = respx.post(f"{URL}/api/chat").mock(return_value=httpx.Response(200))
    upstream = Upstream(URL, withheld=("authorization", "x-api-key"))
    _ask(_raising(MISSING), upstream=upstream, headers={"authorization": "Bearer x", "x-api-key": "x"})
    assert not {"authorization", "x-api-key"} & set(route.calls.last.request.headers)


@respx.mock
@pytest.mark.parametrize("status", [200, 400, 404, 500, 503])
def test_an_answer_comes_back_as_it_is(status: int) -> None:
    headers = {
        "content-type": "application/x-thing",
        "content-encoding": "gzip",
        "date": "yesterday",
        "connection": "keep-alive, x-hop",
        "keep-alive": "timeout=5",
        "x-hop": "1",
        "x-more": "2",
    }
    respx.post(f"{URL}/api/chat").mock(return_value=httpx.Response(status, headers=headers, stream=_Bytes(b"\x00raw")))

    async def ask() -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = _scope()
        await Fallback(_raising(MISSING), upstream=Upstream(URL), last_words_of=last_words_of)(scope, _never, send)
        return sent

    start, *pieces = asyncio.run(ask())
    assert start["status"] == status
    assert start["headers"] == [
        (b"content-type", b"application/x-thing"),
        (b"content-encoding", b"gzip"),
        (b"x-more", b"2"),
        (b"x-mlx-ollama-served-by", b"upstream"),
    ]
    assert b"".join(piece["body"] for piece in pieces) == b"\x00raw"
    assert not pieces[-1].get("more_body")


@respx.mock
def test_a_stream_comes_as_it_comes() -> None:
    async def run() -> list[bytes]:
        gate = asyncio.Event()
        seen: list[bytes] = []

        async def pieces() -> AsyncIterator[bytes]:
            yield b"one\n"
            await asyncio.wait_for(gate.wait(), 5)
            yield b"two\n"

        async def send(message: Any) -> None:
            seen.append(message.get("body", b""))
            if message.get("body") == b"one\n":
                gate.set()

        respx.post(f"{URL}/api/chat").mock(return_value=httpx.Response(200, content=pieces()))
        await Fallback(_raising(MISSING), upstream=Upstream(URL), last_words_of=last_words_of)(_scope(), _never, send)
        return seen

    assert asyncio.run(run()) == [b"", b"one\n", b"two\n", b""]


@respx.mock
@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/api/generate", b'{"model":"theirs","prompt":"x"}'),
        ("/api/chat", CHAT),
        ("/api/embed", b'{"model":"theirs","input":"x"}'),
        ("/api/embeddings", b'{"model":"theirs","prompt":"x"}'),
        ("/api/show", b'{"name":"theirs"}'),
        ("/v1/chat/completions", b'{"model":"theirs","messages":[{"role":"user","content":"x"}]}'),
        ("/v1/completions", b'{"model":"theirs","prompt":"x"}'),
        ("/v1/embeddings", b'{"model":"theirs","input":"x"}'),
        ("/v1/responses", b'{"model":"theirs","input":"x"}'),
        ("/v1/messages", b'{"model":"theirs","max_tokens":1,"messages":[{"role":"user","content":"x"}]}'),
        ("/v1/models/theirs%3Alatest", None),
    ],
)
def test_what_goes_to_the_upstream(path: str, content: bytes | None) -> None:
    route = respx.route(url=f"{URL}{path}").mock(return_value=httpx.Response(200, text="theirs"))
    answer = _ask(_raising(MISSING), path, content)
    assert (answer.text, answer.headers["x-mlx-ollama-served-by"]) == ("theirs", "upstream")
    assert route.calls.last.request.content == (content or b"")
    assert route.calls.last.request.method == ("GET" if content is None else "POST")


@respx.mock
@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/api/pull", b'{"model":"theirs"}'),
        ("/api/push", b'{"model":"theirs"}'),
        ("/api/create", b'{"model":"theirs","from":"x"}'),
        ("/api/copy", b'{"source":"theirs","destination":"x"}'),
        ("/api/delete", b'{"model":"theirs"}'),
        ("/api/blobs/sha256:0", b"x"),
        ("/nowhere", b"{}"),
        ("/v1/nowhere", None),
        ("/api/chat", b'{"model":""}'),
    ],
)
def test_what_never_does(path: str, content: bytes | None) -> None:
    answer = _ask(_raising(MISSING), path, content)
    assert answer.status_code == 404
    assert not respx.calls


@respx.mock
@pytest.mark.parametrize("error", [MISSING, BUSY, LoadFailed("no")])
def test_refusals_that_another_server_can_mend(error: MlxOllamaError) -> None:
    respx.post(f"{URL}/api/chat").mock(return_value=httpx.Response(200, text="theirs"))
    assert _ask(_raising(error)).text == "theirs"


@respx.mock
@pytest.mark.parametrize("error", [InvalidRequest("no"), ShuttingDown(), RuntimeError("no")])
def test_other_errors_stay_here(error: Exception) -> None:
    assert _ask(_raising(error)).status_code in (400, 503, 500)
    assert not respx.calls


@respx.mock
def test_what_is_answered_here_stays_here() -> None:
    answer = _ask(_saying(b"ours"))
    assert (answer.text, answer.headers["x-mlx-ollama-served-by"]) == ("ours", "mlx")
    assert not respx.calls


@respx.mock
def test_a_callers_header_is_no_sign_of_an_upstream_that_is_down() -> None:
    upstream = Upstream(URL, breaker=CircuitBreaker(1, 60.0))
    route = respx.post(f"{URL}/api/chat").mock(side_effect=httpx.LocalProtocolError("illegal header value"))
    assert _ask(_raising(MISSING), upstream=upstream).status_code == 400
    route.mock(return_value=httpx.Response(200, text="theirs"))
    assert _ask(_raising(MISSING), upstream=upstream).text == "theirs"


@respx.mock
def test_an_answer_that_has_begun_is_not_begun_again() -> None:
    with pytest.raises(LoadFailed):
        _ask(_raising(LoadFailed("no"), after=b"ours"))
    assert not respx.calls


@respx.mock
def test_a_request_hops_once() -> None:
    answer = _ask(_raising(MISSING), headers={"x-mlx-ollama-hop": "1"})
    assert (answer.status_code, answer.json()) == (404, {"error": MISSING.message})
    assert _ask(_saying(b'{"models":[]}'), "/api/tags", None, headers={"x-mlx-ollama-hop": "1"}).json() == {
        "models": []
    }
    assert not respx.calls


@respx.mock
def test_a_model_that_is_here_alone_is_not_called_missing() -> None:
    respx.post(f"{URL}/api/chat").mock(return_value=httpx.Response(404, json={"error": "model not found"}))
    refused = _ask(_raising(LoadFailed("no memory for it")))
    assert (refused.status_code, refused.json()) == (500, {"error": "no memory for it"})


@respx.mock
@pytest.mark.parametrize(
    ("path", "content", "kind"),
    [
        ("/api/chat", CHAT, None),
        ("/v1/chat/completions", b'{"model":"theirs","messages":[{"role":"user","content":"x"}]}', "api_error"),
        ("/v1/messages", b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"x"}]}', "api_error"),
    ],
)
def test_an_upstream_that_is_down_is_said_so(path: str, content: bytes, kind: str | None) -> None:
    respx.post(f"{URL}{path}").mock(side_effect=httpx.ConnectError(""))
    refused = _ask(_raising(MISSING), path, content)
    message = f"model 'theirs' not found, and the upstream {URL} does not answer (connection refused)"
    assert refused.status_code == 502
    error = refused.json()["error"]
    assert (error if kind is None else error["message"]) == message
    assert kind is None or error["type"] == kind


@respx.mock
@pytest.mark.parametrize(
    "failure",
    [httpx.ConnectTimeout(""), httpx.ReadError("reset"), httpx.RemoteProtocolError("torn"), httpx.WriteError("")],
)
def test_every_way_to_be_down(failure: Exception) -> None:
    respx.post(f"{URL}/api/chat").mock(side_effect=failure)
    assert _ask(_raising(MISSING)).status_code == 502


FORM = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ntheirs\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--b--\r\n'
)
IN_PIECES = {"content-type": "application/x-ndjson"}


@respx.mock
@pytest.mark.parametrize(
    ("path", "content", "content_type"),
    [
        ("/v1/audio/transcriptions", FORM, "multipart/form-data; boundary=b"),
        (
            "/v1/messages/count_tokens",
            b'{"model":"theirs","messages":[{"role":"user","content":"x"}]}',
            "application/json",
        ),
        ("/api/embed", b'{"model":"theirs","input":"x"}', "application/json"),
    ],
)
def test_an_answer_without_last_words_may_come_in_pieces(path: str, content: bytes, content_type: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"text":'
        yield b'"x"}\n'

    headers = {"content-type": content_type}
    route = respx.post(f"{URL}{path}").mock(return_value=httpx.Response(200, content=pieces(), headers=IN_PIECES))
    answer = _ask(_raising(MISSING), path, content, headers=headers)
    assert (answer.status_code, answer.text) == (200, '{"text":"x"}\n')
    route.mock(return_value=_breaking(IN_PIECES))
    with pytest.raises(MlxOllamaError, match="broke off its answer"):
        _ask(_raising(MISSING), path, content, headers=headers)


def _breaking(headers: dict[str, str]) -> httpx.Response:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one\n"
        raise httpx.ReadError("reset")

    return httpx.Response(200, content=pieces(), headers=headers)


@respx.mock
def test_a_stream_that_breaks_off_says_so() -> None:
    respx.post(f"{URL}/api/chat").mock(return_value=_breaking({"content-type": "application/x-ndjson"}))
    one, last = _ask(_raising(MISSING)).text.splitlines()
    told = f"model 'theirs' not found, and the upstream {URL} broke off its answer (reset)"
    assert (one, orjson.loads(last)) == ("one", {"error": told})


@respx.mock
@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/json"},
        {"content-type": "application/x-ndjson", "content-encoding": "gzip"},
        {"content-type": "application/x-ndjson", "content-length": "100"},
    ],
)
def test_another_answer_that_breaks_off_is_cut_off(headers: dict[str, str]) -> None:
    respx.post(f"{URL}/api/chat").mock(return_value=_breaking(headers))
    with pytest.raises(MlxOllamaError, match="broke off its answer"):
        _ask(_raising(MISSING))


@respx.mock
def test_who_is_busy_while_the_upstream_is_down_says_when_to_come_back() -> None:
    respx.post(f"{URL}/api/chat").mock(side_effect=httpx.ConnectError(""))
    refused = _ask(_raising(BUSY))
    assert (refused.status_code, refused.headers["retry-after"]) == (502, "7")
    assert refused.json()["error"].startswith("Server overloaded. Max 5 concurrent requests, and the upstream")


@respx.mock
def test_a_breaker_spares_an_upstream_that_is_down() -> None:
    now = [1000.0]
    upstream = Upstream(URL, breaker=CircuitBreaker(5, 60.0), clock=lambda: now[0])
    route = respx.post(f"{URL}/api/chat").mock(side_effect=httpx.ConnectError(""))
    for _ in range(5):
        assert "does not answer" in _ask(_raising(MISSING), upstream=upstream).json()["error"]
    now[0] += 20
    spared = _ask(_raising(MISSING), upstream=upstream)
    assert (spared.status_code, spared.headers["retry-after"]) == (502, "40")
    assert spared.json()["error"].endswith(f"and the upstream {URL} is down and is asked again in 40 s")
    assert route.call_count == 5
    now[0] += 40
    route.mock(return_value=httpx.Response(200, text="back"))
    assert _ask(_raising(MISSING), upstream=upstream).text == "back"
    assert _ask(_raising(MISSING), upstream=upstream).text == "back"


@respx.mock
@pytest.mark.parametrize("path", ["/api/tags", "/api/ps"])
def test_lists_are_merged(path: str) -> None:
    ours = b'{"models":[{"name":"a:latest","size":1},{"name":"B:x","size":2}]}'
    theirs = {"models": [{"name": "A:latest", "size": 3}, {"name": "c:latest", "size": 4, "more": 0.5}]}
    route = respx.get(f"{URL}{path}").mock(return_value=httpx.Response(200, json=theirs))
    answer = _ask(_saying(ours, content_type="application/json; charset=utf-8"), path, None)
    assert answer.content == orjson.dumps(
        {
            "models": [
                {"name": "a:latest", "size": 1},
                {"name": "B:x", "size": 2},
                {"name": "c:latest", "size": 4, "more": 0.5},
            ]
        }
    )
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["x-mlx-ollama-served-by"] == "mlx, upstream"
    assert route.calls.last.request.headers["x-mlx-ollama-hop"] == "1"


@respx.mock
@pytest.mark.parametrize(
    ("ours", "theirs", "merged"),
    [
        (b'{"object":"list","data":null}\n', {"data": [{"id": "c"}]}, b'{"object":"list","data":[{"id":"c"}]}\n'),
        (b'{"object":"list","data":null}\n', {"data": None}, b'{"object":"list","data":null}\n'),
        (
            b'{"object":"list","data":[{"id":"c"}]}\n',
            {"data": [{"id": "c"}]},
            b'{"object":"list","data":[{"id":"c"}]}\n',
        ),
    ],
)
def test_models_of_v1_are_merged(ours: bytes, theirs: Any, merged: bytes) -> None:
    respx.get(f"{URL}/v1/models").mock(return_value=httpx.Response(200, json=theirs))
    assert _ask(_saying(ours), "/v1/models", None).content == merged


@respx.mock
@pytest.mark.parametrize(
    "theirs",
    [
        httpx.ConnectError("refused"),
        httpx.Response(500, json={"models": [{"name": "c"}]}),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[1]),
        httpx.Response(200, json={"models": 1}),
        httpx.Response(200, json={"else": []}),
        httpx.Response(200, content=_Bytes(b"no gzip"), headers={"content-encoding": "gzip"}),
    ],
)
def test_without_the_upstreams_list_ours_is_whole(theirs: Any) -> None:
    effect = {"side_effect": theirs} if isinstance(theirs, Exception) else {"return_value": theirs}
    respx.get(f"{URL}/api/tags").mock(**effect)
    answer = _ask(_saying(b'{"models":[]}'), "/api/tags", None)
    assert (answer.content, answer.headers["x-mlx-ollama-served-by"]) == (b'{"models":[]}', "mlx")


def test_a_client_that_leaves_ends_the_request_to_the_upstream() -> None:
    async def run() -> tuple[bool, int]:
        closed = asyncio.Event()
        sent: list[Any] = []
        asked = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            # Nothing is answered: the client leaves before the first byte.
            await reader.read()
            writer.close()
            closed.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        body = [{"type": "http.request", "body": CHAT, "more_body": False}]

        async def receive() -> Any:
            if body:
                return body.pop()
            await asked.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = _scope()
        del scope["state"]
        await _around(_raising(MISSING), Upstream(f"http://127.0.0.1:{port}"))(scope, receive, send)
        await asyncio.wait_for(closed.wait(), 10)
        server.close()
        await server.wait_closed()
        return closed.is_set(), len(sent)

    assert asyncio.run(run()) == (True, 0)


def _scope() -> dict[str, Any]:
    call = DECODERS["POST", "/api/chat"](CHAT, {})
    return {
        "type": "http",
        "method": "POST",
        "path": "/api/chat",
        "raw_path": b"/api/chat",
        "query_string": b"",
        "headers": [(b"content-length", str(len(CHAT)).encode())],
        "state": {"call": call, "body": CHAT},
    }


async def _never() -> Any:
    await asyncio.Event().wait()
