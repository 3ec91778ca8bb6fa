"""What a backend mounts, and its client: MLX first, Ollama second."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx
from starlette.applications import Starlette
from starlette.routing import Mount

from mlx_ollama import proxy
from mlx_ollama.proxy import Client, NoAnswer, create_proxy
from tests.support.server import Server, serving

MLX, OLLAMA = "http://mlx.test:11435", "http://ollama.test:11434"
LINES = '{"response":"a","done":false}\n{"response":"","done":true}\n'


def _get(path: str, **options: Any) -> httpx.Response:
    async def get() -> httpx.Response:
        backend = Starlette(routes=[Mount("/", create_proxy(MLX, OLLAMA, **options))])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(backend), base_url="http://backend.test") as client:
            return await client.get(path)

    return asyncio.run(get())


def _generate(**options: Any) -> list[dict[str, Any]]:
    async def generate() -> list[dict[str, Any]]:
        async with Client(MLX, OLLAMA, **options) as client:
            return [piece async for piece in client.generate(model="m", prompt="x")]

    return asyncio.run(generate())


@respx.mock
@pytest.mark.parametrize("status", [200, 503])
def test_metrics_are_this_servers_health(status: int) -> None:
    health = {"status": "warning", "memory": {"used_percent": 88.5}}
    route = respx.get(f"{MLX}/health").mock(return_value=httpx.Response(status, json=health))
    answer = _get("/api/chat/mlx/metrics", key="k")
    assert (answer.status_code, answer.json(), answer.headers["content-type"]) == (status, health, "application/json")
    assert route.calls.last.request.headers["authorization"] == "Bearer k"


@respx.mock
def test_metrics_of_a_server_that_is_not_there() -> None:
    respx.get(f"{MLX}/health").mock(side_effect=httpx.ConnectError("refused"))
    answer = _get("/api/chat/mlx/metrics")
    assert answer.status_code == 502
    assert answer.json() == {"status": "unavailable", "error": f"{MLX} does not answer: refused"}


@respx.mock
@pytest.mark.parametrize(
    ("health", "version", "mlx", "ollama"),
    [
        (
            httpx.Response(200, json={"status": "degraded"}),
            httpx.Response(200, json={"version": "0.33.0"}),
            ("degraded", True),
            ("healthy", True),
        ),
        (
            httpx.Response(503, json={"status": "draining"}),
            httpx.Response(500),
            ("draining", False),
            ("unavailable", False),
        ),
        (
            httpx.Response(404, text="404 page not found"),
            httpx.ConnectError(""),
            ("unavailable", False),
            ("unavailable", False),
        ),
        (httpx.ReadTimeout(""), httpx.Response(200, text="["), ("unavailable", False), ("healthy", True)),
    ],
)
def test_status_of_both(health: Any, version: Any, mlx: tuple[str, bool], ollama: tuple[str, bool]) -> None:
    for url, effect in ((f"{MLX}/health", health), (f"{OLLAMA}/api/version", version)):
        respx.get(url).mock(**({"side_effect": effect} if isinstance(effect, Exception) else {"return_value": effect}))
    answer = _get("/api/chat/status")
    assert answer.status_code == 200
    assert answer.json() == {
        "mlx": {"status": mlx[0], "available": mlx[1], "url": MLX},
        "ollama": {"status": ollama[0], "available": ollama[1], "url": OLLAMA},
    }


def test_other_paths_are_the_backends() -> None:
    assert _get("/api/chat").status_code == 404


@respx.mock
def test_mlx_is_asked_first() -> None:
    route = respx.post(f"{MLX}/api/generate").mock(return_value=httpx.Response(200, text=LINES))
    assert [piece["response"] for piece in _generate(key="k")] == ["a", ""]
    request = route.calls.last.request
    assert request.content == b'{"model":"m","prompt":"x","stream":true}'
    assert request.headers["authorization"] == "Bearer k"


@respx.mock
@pytest.mark.parametrize(
    "first",
    [httpx.ConnectError(""), httpx.ReadError(""), *(httpx.Response(code) for code in (404, 429, 500, 502, 503, 504))],
)
def test_ollama_is_asked_second(first: Any) -> None:
    effect = {"side_effect": first} if isinstance(first, Exception) else {"return_value": first}
    respx.post(f"{MLX}/api/generate").mock(**effect)
    second = respx.post(f"{OLLAMA}/api/generate").mock(return_value=httpx.Response(200, text=LINES))
    assert len(_generate(key="k")) == 2
    assert "authorization" not in second.calls.last.request.headers


@respx.mock
@pytest.mark.parametrize("status", [400, 401, 403, 413])
def test_a_refusal_is_final(status: int) -> None:
    respx.post(f"{MLX}/api/generate").mock(return_value=httpx.Response(status, json={"error": "no"}))
    with pytest.raises(NoAnswer, match="no") as caught:
        _generate()
    assert caught.value.status == status


@respx.mock
def test_neither_has_an_answer() -> None:
    respx.post(f"{MLX}/api/generate").mock(side_effect=httpx.ConnectError("refused"))
    respx.post(f"{OLLAMA}/api/generate").mock(return_value=httpx.Response(404, json={"error": "model 'm' not found"}))
    with pytest.raises(NoAnswer) as caught:
        _generate()
    assert str(caught.value) == f"{MLX} does not answer: refused; {OLLAMA}: model 'm' not found"
    assert caught.value.status == 404


@respx.mock
@pytest.mark.parametrize("rest", ["", '{"error":"the engine gave up"}\n', "<html>\n", "[1]\n"])
def test_what_has_begun_is_not_begun_again(rest: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"response":"a","done":false}\n'
        yield rest.encode()
        raise httpx.ReadError("reset")

    respx.post(f"{MLX}/api/generate").mock(return_value=httpx.Response(200, content=pieces()))
    with pytest.raises(NoAnswer):
        _generate()


@respx.mock
def test_only_a_line_feed_ends_a_line() -> None:
    """U+0085 is a letter like others to JSON, and pieces are cut anywhere."""
    whole = b'{"response":"a\xc2\x85b","done":false}\n{"response":"","done":true}'

    async def pieces() -> AsyncIterator[bytes]:
        for byte in whole:
            yield bytes([byte])

    respx.post(f"{MLX}/api/generate").mock(return_value=httpx.Response(200, content=pieces()))
    assert [piece["response"] for piece in _generate()] == ["a\x85b", ""]


def test_addresses_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLX_API_HOME", str(tmp_path))
    assert proxy._addresses(None, None) == ("http://127.0.0.1:11435", "http://127.0.0.1:11434")
    monkeypatch.setenv("MLX_API_HOST", "0.0.0.0")
    monkeypatch.setenv("MLX_API_PORT", "4711")
    monkeypatch.setenv("MLX_API_UPSTREAM", "http://there:1/")
    assert proxy._addresses(None, None) == ("http://127.0.0.1:4711", "http://there:1")
    monkeypatch.setenv("MLX_API_HOST", "::1")
    assert proxy._addresses(None, "http://x") == ("http://[::1]:4711", "http://x")
    assert proxy.app is proxy.app


def test_with_real_servers(tiny: Server, tmp_path: Path) -> None:
    async def run(empty: str) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
        async with Client(empty, tiny.url, key="one") as client:
            messages = [{"role": "user", "content": "ba"}]
            said = [piece async for piece in client.chat(model="tiny", messages=messages, options={"num_predict": 3})]
        transport = httpx.ASGITransport(create_proxy(empty, tiny.url, key="one"))
        async with httpx.AsyncClient(transport=transport, base_url="http://backend.test") as backend:
            metrics, status = [await backend.get(f"/api/chat/{path}") for path in ("mlx/metrics", "status")]
        return said, metrics.json(), status.json()

    with serving(tmp_path, env={"MLX_API_KEYS": "one"}) as server:
        said, metrics, status = asyncio.run(run(server.url))
    assert said[-1]["eval_count"] == 3
    assert (metrics["service"], metrics["status"], metrics["total_models"]) == ("mlx-ollama", "healthy", 0)
    assert status == {
        "mlx": {"status": "healthy", "available": True, "url": server.url},
        "ollama": {"status": "healthy", "available": True, "url": tiny.url},
    }
