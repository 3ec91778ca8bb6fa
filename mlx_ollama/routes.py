"""The route table, and how an answer is written: whole or as a stream, with the content types of wire-spec 0.2."""

import asyncio
import posixpath
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, compile_path
from starlette.types import Receive, Scope, Send

from mlx_ollama.dialects import ollama, openai_models
from mlx_ollama.dialects.answers import NDJSON, REFUSAL_JSON, Answers, Door
from mlx_ollama.doors import DOORS
from mlx_ollama.errors import MlxOllamaError, TemplateFailed
from mlx_ollama.library import Library
from mlx_ollama.records import record_of
from mlx_ollama.service import Events, Service
from mlx_ollama.types import Chat, Embed, Event, Leased, Recalled, Show

_SLASHES = re.compile("/{2,}")

COMPATIBLE_VERSION = "0.33.0"
"""The version of Ollama whose behaviour this is. Clients compare it, so it has no suffix (clients.md, trap 10)."""

CHUNKED_FROM_BYTES = 2048
"""From this size on the reference's bodies are sent in chunks, without a length (wire-spec 0.1)."""

PROMPT_CACHE_HEADER = "x-mlx-ollama-prompt-cache"

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


def route_of(table: Mapping[str, Resource], path: str) -> str | None:
    """The entry of the table that a path is; a name in braces stands for one part of it."""
    if path in table:
        return path
    patterns = (pattern for pattern in table if "{" in pattern)
    return next((pattern for pattern in patterns if compile_path(pattern)[0].match(path)), None)


def find(table: Mapping[str, Resource], path: str) -> Resource | None:
    """What answers a path."""
    route = route_of(table, path)
    return None if route is None else table[route]


class NotFound:
    """Unknown paths: to their clean form if that is a route, else 404 (wire-spec 1.2)."""

    def __init__(self, resources: Mapping[str, Resource]) -> None:
        self._resources = resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        clean = posixpath.normpath(_SLASHES.sub("/", path)) if path else "/"
        # A WebSocket has no method, and nowhere to go.
        if scope["type"] != "http" or clean == path or find(self._resources, clean) is None:
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


@dataclass(frozen=True)
class StreamKeepAlive:
    """When a silent stream says that it lives: after so many `seconds`, 0 for never; and whether NDJSON does, too."""

    seconds: float
    ndjson: bool

    def patience(self, answers: Answers) -> float:
        """How long these answers may be silent."""
        return 0.0 if answers.stream_headers["content-type"] == NDJSON and not self.ndjson else self.seconds


Describe = Callable[[Recalled], Mapping[str, str]]
"""What the headers of an answer say of its prompt."""


def say_nothing(recalled: Recalled) -> Mapping[str, str]:
    """Without `MLX_API_DEBUG` answers have no header of that."""
    return {}


def say_what_was_reused(recalled: Recalled) -> Mapping[str, str]:
    """How many tokens of a prompt were remembered, and where it parts from the most similar one."""
    told = f"reused={recalled.reused}"
    if recalled.differs_at >= 0:
        # A header has no room for characters beyond ASCII, nor for line ends.
        told += f"; differs={recalled.differs_at}; was={recalled.was!a}; now={recalled.now!a}"
    return {PROMPT_CACHE_HEADER: told}


class OpenLine:
    """What a stream has sent so far. Two may send on it, one at a time: the answer, and its heartbeat."""

    def __init__(self, send: Send, headers: Mapping[str, str]) -> None:
        self._send = send
        self._headers = dict(headers)
        self._lock = asyncio.Lock()
        self._clock = asyncio.get_running_loop().time
        self._sent_at = self._clock()
        self.is_open = False
        self.has_spoken = False

    def add_headers(self, headers: Mapping[str, str]) -> None:
        """More of them; too late once the status is sent."""
        self._headers |= headers

    async def flush(self, piece: bytes) -> None:
        """Send a piece of the answer, and the status before the first one, which may be empty."""
        async with self._lock:
            self.has_spoken = self.has_spoken or bool(piece)
            await self._flush(piece)

    async def beat(self, heartbeat: Callable[[], bytes], patience: float) -> None:
        """Send a heartbeat whenever nothing was sent for so many seconds."""
        self._sent_at = self._clock()
        while True:
            await asyncio.sleep(self._sent_at + patience - self._clock())
            async with self._lock:
                if self._clock() - self._sent_at >= patience:
                    await self._flush(heartbeat())

    async def close(self) -> None:
        async with self._lock:
            await self._send({"type": "http.response.body", "body": b""})

    async def _flush(self, piece: bytes) -> None:
        if not self.is_open:
            self.is_open = True
            headers = [(name.encode(), value.encode()) for name, value in self._headers.items()]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        if piece:
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            self._sent_at = self._clock()


class EventStream(Response):
    """An answer as it comes, one flush per event.

    The status is sent with the first event, so whatever fails before it still gets a status of its own; what fails
    later is told in the stream (wire-spec 2.4, 8.1), by `policies/errors.py` in the words that are left for it. Once
    the model is leased, `patience` seconds (0 for ever) without a byte are followed by a heartbeat, so that clients who
    take silence for death survive a long prompt; that, too, decides the status.
    """

    def __init__(self, events: Events, answers: Answers, patience: float, describe: Describe = say_nothing) -> None:
        self._events, self._answers, self._patience, self._describe = events, answers, patience, describe
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answers = self._answers
        line = OpenLine(send, answers.stream_headers)
        state = scope.setdefault("state", {})
        state["last_words"] = partial(self._last_words, line)
        plain: Event | None = None
        async with aclosing(self._events) as events:
            first = await anext(events)
            with self._beating(line, is_leased=isinstance(first, Leased)):
                try:
                    if isinstance(first, Leased):
                        first = await self._first(line, events)
                    if answers.is_plain(first) and not line.is_open:
                        plain = first
                    else:
                        await self._stream(line, first, events)
                except MlxOllamaError as error:
                    # In the reference, models load and templates run before the answer begins.
                    state["job"] = not isinstance(error, TemplateFailed)
                    raise
        if plain:
            del state["last_words"]
            await JsonResponse(answers.whole([plain]), answers.whole_headers)(scope, receive, send)
        else:
            await line.close()

    def _last_words(self, line: OpenLine, message: str) -> bytes:
        return (self._answers.broken if line.has_spoken else self._answers.failed)(message)

    async def _first(self, line: OpenLine, events: Events) -> Event:
        """The first event that is a part of the answer."""
        while isinstance(event := await anext(events), Leased):
            if isinstance(event, Recalled):
                line.add_headers(self._describe(event))
        return event

    async def _stream(self, line: OpenLine, first: Event, events: Events) -> None:
        await line.flush(self._answers.event(first))
        async for event in events:
            if not isinstance(event, Leased):
                await line.flush(self._answers.event(event))

    @contextmanager
    def _beating(self, line: OpenLine, *, is_leased: bool) -> Iterator[None]:
        if not (is_leased and self._patience):
            yield
            return
        heart = asyncio.ensure_future(line.beat(self._answers.heartbeat, self._patience))
        # If it cannot send, neither can the answer, which says so.
        heart.add_done_callback(lambda heart: heart.cancelled() or heart.exception())
        try:
            yield
        finally:
            heart.cancel()


def resources(
    service: Service, library: Library, keep_alive: StreamKeepAlive, describe: Describe
) -> dict[str, Resource]:
    """Every path but those of the store."""

    async def root(request: Request) -> Response:
        return Response("Ollama is running", headers={"content-type": "text/plain; charset=utf-8"})

    async def version(request: Request) -> Response:
        return JsonResponse(b'{"version":"%s"}' % COMPATIBLE_VERSION.encode())

    async def tags(request: Request) -> Response:
        return JsonResponse(ollama.encode_tags(await asyncio.to_thread(library.list)))

    async def ps(request: Request) -> Response:
        return JsonResponse(ollama.encode_ps(service.loaded()))

    async def show(request: Request) -> Response:
        return JsonResponse(ollama.encode_show(await asyncio.to_thread(library.show, request.state.call)))

    async def models(request: Request) -> Response:
        listed = await asyncio.to_thread(library.list)
        return JsonResponse(openai_models.encode_models(listed), openai_models.HEADERS)

    async def model(request: Request) -> Response:
        name = request.path_params["model"]
        # Its path is the call of this request; from here on it is being checked.
        request.state.call = Show(model=name)
        shown = await asyncio.to_thread(library.show, request.state.call)
        return JsonResponse(openai_models.encode_model(name, shown), openai_models.HEADERS)

    return {
        "/": Resource({"HEAD": root, "GET": root}),
        "/api/version": Resource({"HEAD": version, "GET": version}),
        "/api/tags": Resource({"HEAD": tags, "GET": tags}),
        "/api/ps": Resource({"GET": ps}),
        "/api/show": Resource({"POST": show}),
        "/v1/models": Resource({"GET": models}),
        "/v1/models/{model}": Resource({"GET": model}),
        **{path: Resource({"POST": _asking(service, door, keep_alive, describe)}) for path, door in DOORS.items()},
    }


def routes(table: Mapping[str, Resource]) -> list[BaseRoute]:
    """The table as Starlette wants it."""
    return [Route(path, resource) for path, resource in table.items()]


def _asking(service: Service, door: Door, keep_alive: StreamKeepAlive, describe: Describe) -> Endpoint:
    """What is asked of a model through one door, in whatever dialect."""

    async def ask(request: Request) -> Response:
        call = request.state.call
        record = record_of(request.scope)
        record.reaches_the_endpoint()
        answers: Any = door.answers(call)
        if isinstance(call, Embed):
            embeddings = await service.embed(call)
            record.usage = embeddings.usage
            return JsonResponse(await asyncio.to_thread(answers.vectors, embeddings), answers.whole_headers)
        events = record.watched(service.chat(call) if isinstance(call, Chat) else service.complete(call))
        if call.stream:
            return EventStream(events, answers, keep_alive.patience(answers), describe)
        whole: list[Event] = []
        headers = dict(answers.whole_headers)
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Recalled):
                    headers |= describe(event)
                elif not isinstance(event, Leased):
                    whole.append(event)
        return JsonResponse(answers.whole(whole), headers)

    return ask


def _plain(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(text, status, headers={"content-type": "text/plain", **(headers or {})})


def _redirect(path: str, method: str, *, permanent: bool) -> Response:
    """A GET with a slash too many is moved for good, the rest is asked again elsewhere."""
    status = 301 if permanent and method == "GET" else 307
    # A model's name may have anything in it, and this goes into a header and into a page.
    path = quote(path, safe="/:")
    if method not in ("GET", "HEAD"):
        return Response(b"", status, headers={"location": path})
    phrase = "Moved Permanently" if status == 301 else "Temporary Redirect"  # noqa: PLR2004 - HTTP's own numbers
    page = f'<a href="{path}">{phrase}</a>.\n\n'
    return Response(page, status, headers={"location": path, "content-type": "text/html; charset=utf-8"})
