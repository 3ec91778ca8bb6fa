"""A client as a policy sees one: a request in ASGI, and what came back on it. No server, no sockets."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mlx_ollama.doors import DECODERS

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGE_BODY_BYTES = 3_000_000
UNREAD_BYTES = 640_000
"""So much of a body a server takes in that nobody reads; of the rest the client is not rid, and it hears nothing."""

PIECE_BYTES = 65_536
GENERATE = "/api/generate"

FILE = bytes(range(256)) * 1024
UPLOAD = f"/api/blobs/sha256:{hashlib.sha256(FILE).hexdigest()}"

_TALK = [{"role": "user", "content": "hello"}]
REQUESTS: Mapping[str, Mapping[str, Any] | None] = {
    "/": None,
    "/api/tags": None,
    GENERATE: {"model": "m", "prompt": "hello"},
    "/api/chat": {"model": "m", "messages": _TALK},
    "/api/embed": {"model": "m", "input": "hello"},
    "/api/show": {"model": "m"},
    "/v1/chat/completions": {"model": "m", "messages": _TALK, "stream": True},
    "/v1/messages": {"model": "m", "messages": _TALK, "max_tokens": 9},
}
"""By path, what is posted there, None for a GET."""


class ClientGone(OSError):
    """What sending comes to once the client has left."""


@dataclass
class Client:
    """One request, and what came back.

    `leaves_after` is after how many messages the client is gone; one that is `writing` takes no answer as long as the
    server has not taken in its body.
    """

    scope: Scope
    pieces: list[bytes] = field(default_factory=list)
    leaves_after: int | None = None
    writing: bool = False
    sent: list[Message] = field(default_factory=list)
    error: BaseException | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self) -> Message:
        if self.pieces:
            piece = self.pieces.pop(0)
            self._news.set()
            return {"type": "http.request", "body": piece, "more_body": bool(self.pieces)}
        await self._until(lambda: self._has_left)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self._has_left:
            raise ClientGone("the client has gone")
        if self.writing:
            await self._until(lambda: sum(map(len, self.pieces)) <= UNREAD_BYTES)
        self.sent.append(dict(message))
        self._news.set()

    async def ask(self, app: App) -> None:
        """Be served; what is raised is kept."""
        try:
            await app(self.scope, self.receive, self.send)
        except Exception as error:  # noqa: BLE001 - what it is will be looked at
            self.error = error

    @property
    def status(self) -> int | None:
        """The status of the answer, None before it has begun."""
        return next((int(message["status"]) for message in self.sent if message["type"] == "http.response.start"), None)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def is_answered(self) -> bool:
        """Whether the answer has come to its end."""
        return bool(self.sent) and self.sent[-1]["type"] == "http.response.body" and not self.sent[-1].get("more_body")

    def misspoken(self) -> str:
        """What is wrong with the order of the answer, if anything."""
        kinds = [message["type"] for message in self.sent]
        ends = [not message.get("more_body", False) for message in self.sent if message["type"] == "http.response.body"]
        if kinds.count("http.response.start") > 1:
            return "sends http.response.start twice"
        if kinds and kinds[0] != "http.response.start":
            return f"sends {kinds[0]} before http.response.start"
        return "sends more after the end of an answer" if True in ends[:-1] else ""

    @property
    def _has_left(self) -> bool:
        return self.leaves_after is not None and len(self.sent) >= self.leaves_after

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._news.clear()
            await self._news.wait()


def request(path: str, headers: Mapping[str, str], number: int = 0, *, large: bool = False) -> Client:
    """A client that asks for a path of `REQUESTS`, from an address of its own for each `number`.

    The typed call is in the scope as it is behind `Decode`, and the body is there to be read as it is before it.
    """
    members = REQUESTS[path]
    if members is None:
        return Client(_scope("GET", path, b"", headers, number), [b""])
    if large:
        members = {**members, "prompt": "x" * LARGE_BODY_BYTES}
    body = json.dumps(members).encode()
    scope = _scope("POST", path, body, headers, number)
    scope["state"] = {"call": DECODERS["POST", path](body, headers), "body": body}
    return Client(scope, _cut(body), writing=large)


def upload(headers: Mapping[str, str]) -> Client:
    """A client that sends a file, which is no call and goes to the disk piece by piece."""
    return Client(_scope("POST", UPLOAD, FILE, headers, 0), _cut(FILE))


def _scope(method: str, path: str, body: bytes, headers: Mapping[str, str], number: int) -> Scope:
    named = {"host": "localhost:11435", "accept-encoding": "gzip", **headers}
    if body:
        named |= {"content-type": "application/json", "content-length": str(len(body))}
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in named.items()],
        "client": (f"127.1.{number // 250}.{number % 250 + 1}", 40_000),
        "server": ("127.0.0.1", 11435),
        "state": {},
    }


def _cut(body: bytes) -> list[bytes]:
    return [body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES)]
