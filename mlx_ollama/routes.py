"""The route table, and how an answer is written: whole or as a stream, with the content types of wire-spec 0.2."""

import asyncio
import posixpath
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from mlx_ollama.dialects import ollama
from mlx_ollama.dialects.answers import REFUSAL_JSON, Answers, Door
from mlx_ollama.doors import DOORS
from mlx_ollama.errors import MlxOllamaError
from mlx_ollama.service import Events, Service
from mlx_ollama.types import Chat, Embed

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

    def __init__(
        self, body: bytes, headers: Mapping[str, str] = MappingProxyType({"content-type": REFUSAL_JSON})
    ) -> None:
        super().__init__(body, headers=headers)
        if len(body) > CHUNKED_FROM_BYTES:
            del self.headers["content-length"]


class EventStream(Response):
    """An answer as it comes, one flush per event.

    The status is sent with the first event, so whatever fails before it still gets a status of its own; what fails
    later is told in the stream (wire-spec 2.4, 8.1).
    """

    def __init__(self, events: Events, answers: Answers) -> None:
        self._events, self._answers = events, answers
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answers = self._answers
        async with aclosing(self._events) as events:
            scope.setdefault("state", {})["job"] = True
            first = await anext(events)
            if answers.is_plain(first):
                await JsonResponse(answers.whole([first]), answers.whole_headers)(scope, receive, send)
                return
            headers = [(name.encode(), value.encode()) for name, value in answers.stream_headers.items()]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await _flush(send, answers.event(first))
            try:
                async for event in events:
                    await _flush(send, answers.event(event))
                await _flush(send, answers.end())
            except MlxOllamaError as error:
                await _flush(send, answers.broken(error.message))
        await send({"type": "http.response.body", "body": b""})


async def _flush(send: Send, piece: bytes) -> None:
    if piece:
        await send({"type": "http.response.body", "body": piece, "more_body": True})


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

    return {
        "/": Resource({"HEAD": root, "GET": root}),
        "/api/version": Resource({"HEAD": version, "GET": version}),
        "/api/tags": Resource({"HEAD": tags, "GET": tags}),
        "/api/ps": Resource({"GET": ps}),
        "/api/show": Resource({"POST": show}),
        **{path: Resource({"POST": _asking(service, door)}) for path, door in DOORS.items()},
    }


def routes(table: Mapping[str, Resource]) -> list[BaseRoute]:
    """The table as Starlette wants it."""
    return [Route(path, resource) for path, resource in table.items()]


def _asking(service: Service, door: Door) -> Endpoint:
    """What is asked of a model through one door, in whatever dialect."""

    async def ask(request: Request) -> Response:
        call = request.state.call
        answers: Any = door.answers(call)
        if isinstance(call, Embed):
            embeddings = await service.embed(call)
            return JsonResponse(await asyncio.to_thread(answers.vectors, embeddings))
        events = service.chat(call) if isinstance(call, Chat) else service.complete(call)
        if call.stream:
            return EventStream(events, answers)
        async with aclosing(events):
            whole = [event async for event in events]
        return JsonResponse(answers.whole(whole), answers.whole_headers)

    return ask


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
