"""For backends of other programs: how this server and Ollama are, and answers from whichever can give them.

`app` can be mounted by any ASGI application, or served by itself (`mlx_ollama.proxy:app`); `Client` generates.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

import httpx
import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mlx_ollama.gojson import dumps
from mlx_ollama.ndjson import Lines
from mlx_ollama.reaching import address, authorization, reason
from mlx_ollama.settings import Settings, load

OLLAMA_URL = "http://127.0.0.1:11434"
CONNECT_SECONDS = 5.0
PROBE_SECONDS = 5.0

_OK, _BAD_GATEWAY = 200, 502
_ASK_ANOTHER = frozenset((404, 408, 429, 500, 502, 503, 504))
"""A server that says this has no answer, where another one may have one."""


class NoAnswer(Exception):
    """Neither server has an answer. `status` is what the last one said, None if it could not be reached."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def create_proxy(mlx: str | None = None, ollama: str | None = None, *, key: str = "") -> Starlette:
    """An application with `GET /api/chat/mlx/metrics` and `GET /api/chat/status`.

    `mlx` and `ollama` are base URLs; None is what the settings say. `key` is one of this server's keys, if it has any.
    """
    mlx, ollama = _addresses(mlx, ollama)

    async def metrics(request: Request) -> Response:
        async with _prober(key) as client:
            try:
                health = await client.get(f"{mlx}/health")
            except httpx.RequestError as error:
                return _json(
                    {"status": "unavailable", "error": f"{mlx} does not answer: {reason(error)}"}, _BAD_GATEWAY
                )
        return Response(health.content, health.status_code, {"content-type": health.headers.get("content-type", "")})

    async def status(request: Request) -> Response:
        ours, theirs = await asyncio.gather(_probe(f"{mlx}/health", key), _probe(f"{ollama}/api/version", ""))
        return _json({"mlx": {**ours, "url": mlx}, "ollama": {**theirs, "url": ollama}})

    return Starlette(routes=[Route("/api/chat/mlx/metrics", metrics), Route("/api/chat/status", status)])


class Client:
    """Generates with this server first and Ollama second. Arguments are those of `create_proxy`.

    To be used as `async with`, or closed with `aclose`.
    """

    def __init__(self, mlx: str | None = None, ollama: str | None = None, *, key: str = "") -> None:
        mlx, ollama = _addresses(mlx, ollama)
        self._servers: tuple[tuple[str, dict[str, str]], ...] = ((mlx, authorization(key)), (ollama, {}))
        self._http = httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(None, connect=CONNECT_SECONDS))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    def generate(self, **body: Any) -> AsyncIterator[dict[str, Any]]:
        """The objects of `POST /api/generate`, streamed; `body` has the fields of the request.

        Ollama is asked if this server cannot be reached, lacks the model, or cannot answer now. What has begun is not
        begun again.

        Raises:
            NoAnswer: if neither server has one, the request is refused, or the answer breaks off.
        """
        return self._stream("/api/generate", body)

    def chat(self, **body: Any) -> AsyncIterator[dict[str, Any]]:
        """The objects of `POST /api/chat`, as above."""
        return self._stream("/api/chat", body)

    async def _stream(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        refusals: list[str] = []
        for url, credentials in self._servers:
            begun = False
            try:
                async with self._http.stream(
                    "POST", url + path, json={**body, "stream": True}, headers=credentials
                ) as answer:
                    if answer.status_code in _ASK_ANOTHER:
                        refusals.append(f"{url}: {await _refusal(answer)}")
                        status: int | None = answer.status_code
                        continue
                    if answer.status_code != _OK:
                        raise NoAnswer(f"{url}: {await _refusal(answer)}", answer.status_code)
                    lines = Lines()
                    async for piece in answer.aiter_bytes():
                        for line in lines.of(piece):
                            begun = True
                            yield _piece(line, url)
                    for line in lines.last():
                        yield _piece(line, url)
                    return
            except httpx.RequestError as error:
                if begun:
                    raise NoAnswer(f"{url} broke off its answer: {reason(error)}") from error
                refusals.append(f"{url} does not answer: {reason(error)}")
                status = None
        raise NoAnswer("; ".join(refusals), status)


def _piece(line: bytes, url: str) -> dict[str, Any]:
    beginning = line[:100].decode("utf-8", "replace")
    try:
        piece = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise NoAnswer(f"{url} says what is no JSON: {beginning!r}") from error
    if not isinstance(piece, dict) or piece.get("error"):
        raise NoAnswer(f"{url}: {piece['error'] if isinstance(piece, dict) else beginning}")
    return piece


async def _refusal(answer: httpx.Response) -> str:
    text = (await answer.aread()).decode("utf-8", "replace")
    try:
        return str(orjson.loads(text)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return text[:100] or f"status {answer.status_code}"


async def _probe(url: str, key: str) -> dict[str, Any]:
    """How a server is, in its own words if it has any, and whether it can be used."""
    async with _prober(key) as client:
        try:
            answer = await client.get(url)
        except httpx.RequestError:
            return {"status": "unavailable", "available": False}
    is_well = answer.status_code == _OK
    return {"status": _own_word(answer) or ("healthy" if is_well else "unavailable"), "available": is_well}


def _own_word(answer: httpx.Response) -> str:
    try:
        said = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return ""
    word = said.get("status") if isinstance(said, dict) else None
    return word if isinstance(word, str) else ""


def _prober(key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False, timeout=PROBE_SECONDS, headers=authorization(key))


def _addresses(mlx: str | None, ollama: str | None) -> tuple[str, str]:
    settings = load().settings if mlx is None or ollama is None else Settings()
    if mlx is None:
        mlx = address(settings.host, settings.port)
    if ollama is None:
        ollama = settings.upstream or OLLAMA_URL
    return mlx.rstrip("/"), ollama.rstrip("/")


def _json(value: Mapping[str, Any], status: int = _OK) -> Response:
    return Response(dumps(value), status, {"content-type": "application/json; charset=utf-8"})


def __getattr__(name: str) -> Starlette:
    """`app` is made when it is asked for: the settings are then read, and not by whoever only wants `Client`."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals()["app"] = create_proxy()
    return made
