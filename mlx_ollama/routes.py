"""The route table, and how an answer is written: whole or as a stream, with the content types of wire-spec 0.2."""

import asyncio
import posixpath
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from mlx_ollama.dialects import ollama, ollama_embed
from mlx_ollama.dialects.ollama_answers import ChatEncoder, Encoder, GenerateEncoder
from mlx_ollama.errors import MlxOllamaError
from mlx_ollama.service import Events, Service
from mlx_ollama.types import Chat, Completion, Done, Embed, Rendered

COMPATIBLE_VERSION = "0.33.0"
"""The version of Ollama whose behaviour this is. Clients compare it, so it has no suffix (clients.md, trap 10)."""

CHUNKED_FROM_BYTES = 2048
"""From this size on the reference's bodies are sent in chunks, without a length (wire-spec 0.1)."""

Endpoint = Callable[[Request], Awaitable[Response]]


class Resource:
    """The methods of one path, in the order in which `Allow` lists them."""

    def __init__(self, methods: Mapping[str, Endpoint]) -> None:
        self._methods = methods
        self.allow = ", ".join(methods)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._methods.get(scope["method"])
        if endpoint is None:
            response: Response = _plain(405, "405 method not allowed", {"allow": self.allow})
        else:
            response = await endpoint(Request(scope, receive))
        await response(scope, receive, send)


class NotFound:
    """Unknown paths: to their clean form if that is a route, else 404 (wire-spec 1.2)."""

    def __init__(self, resources: Mapping[str, Resource]) -> None:
        self._resources = resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        clean = posixpath.normpath(path.replace("//", "/")) if path else "/"
        if clean == path or clean not in self._resources:
            response: Response = _plain(404, "404 page not found")
        else:
            slash_only = path == f"{clean}/"
            response = _redirect(clean, scope["method"], permanent=slash_only)
        await response(scope, receive, send)


class JsonResponse(Response):
    """A body that is already JSON; large ones are sent without a length."""

    media_type = None

    def __init__(self, body: bytes, content_type: str = ollama.JSON) -> None:
        super().__init__(body, headers={"content-type": content_type})
        if len(body) > CHUNKED_FROM_BYTES:
            del self.headers["content-length"]


class EventStream(Response):
    """One line per event, one flush per line.

    The status is sent with the first event, so whatever fails before it still gets a status of its own; what fails
    later becomes the last line (wire-spec 2.4).
    """

    def __init__(self, events: Events, encoder: Encoder) -> None:
        self._events, self._encoder = events, encoder
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events) as events:
            scope.setdefault("state", {})["job"] = True
            first = await anext(events)
            if isinstance(first, Rendered) or (isinstance(first, Done) and first.usage is None):
                # Loads, unloads and renderings are one plain object even where a stream was asked for.
                await JsonResponse(self._encoder.encode(first))(scope, receive, send)
                return
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [(b"content-type", ollama.NDJSON.encode())],
                }
            )
            await self._line(send, self._encoder.encode(first))
            try:
                async for event in events:
                    await self._line(send, self._encoder.encode(event))
            except MlxOllamaError as error:
                await self._line(send, ollama.encode_error(error.message))
        await send({"type": "http.response.body", "body": b""})

    async def _line(self, send: Send, line: bytes) -> None:
        if line:
            await send({"type": "http.response.body", "body": line + b"\n", "more_body": True})


def resources(service: Service) -> dict[str, Resource]:
    """Every path of the server."""

    async def root(request: Request) -> Response:
        return Response("Ollama is running", headers={"content-type": "text/plain; charset=utf-8"})

    async def version(request: Request) -> Response:
        return JsonResponse(b'{"version":"%s"}' % COMPATIBLE_VERSION.encode())

    async def tags(request: Request) -> Response:
        return JsonResponse(ollama.encode_tags(await asyncio.to_thread(service.list)))

    async def ps(request: Request) -> Response:
        return JsonResponse(ollama.encode_ps(service.loaded()))

    async def show(request: Request) -> Response:
        return JsonResponse(ollama.encode_show(await asyncio.to_thread(service.show, request.state.call)))

    async def generate(request: Request) -> Response:
        call: Completion = request.state.call
        return await _answer(call, service.complete(call), GenerateEncoder(call.model))

    async def chat(request: Request) -> Response:
        call: Chat = request.state.call
        return await _answer(call, service.chat(call), ChatEncoder(call.model))

    async def embed(request: Request) -> Response:
        call: Embed = request.state.call
        embeddings = await service.embed(call)
        return JsonResponse(await asyncio.to_thread(ollama_embed.encode_embed, call.model, embeddings))

    async def legacy_embed(request: Request) -> Response:
        return JsonResponse(ollama_embed.encode_legacy(await service.embed(request.state.call)))

    return {
        "/": Resource({"HEAD": root, "GET": root}),
        "/api/version": Resource({"HEAD": version, "GET": version}),
        "/api/tags": Resource({"HEAD": tags, "GET": tags}),
        "/api/ps": Resource({"GET": ps}),
        "/api/show": Resource({"POST": show}),
        "/api/generate": Resource({"POST": generate}),
        "/api/chat": Resource({"POST": chat}),
        "/api/embed": Resource({"POST": embed}),
        "/api/embeddings": Resource({"POST": legacy_embed}),
    }


def routes(table: Mapping[str, Resource]) -> list[BaseRoute]:
    """The table as Starlette wants it."""
    return [Route(path, resource) for path, resource in table.items()]


async def _answer(call: Chat | Completion, events: Events, encoder: Encoder) -> Response:
    if call.stream:
        return EventStream(events, encoder)
    async with aclosing(events):
        whole = [event async for event in events]
    return JsonResponse(encoder.encode_whole(whole))


def _plain(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(text, status, headers={"content-type": "text/plain", **(headers or {})})


def _redirect(path: str, method: str, *, permanent: bool) -> Response:
    """A GET with a slash too many is moved for good, the rest is asked again elsewhere."""
    status = 301 if permanent and method == "GET" else 307
    if method not in ("GET", "HEAD"):
        return Response(b"", status, headers={"location": path})
    phrase = "Moved Permanently" if status == 301 else "Temporary Redirect"  # noqa: PLR2004 - HTTP's own numbers
    page = f'<a href="{path}">{phrase}</a>.\n\n'
    return Response(page, status, headers={"location": path, "content-type": "text/html; charset=utf-8"})
