"""Lists of models that name the upstream's, too."""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_ollama import gojson
from mlx_ollama.policies.fallback import SERVED_BY
from mlx_ollama.upstream import HOP_HEADER, Upstream

LISTS: Mapping[str, tuple[str, str]] = {
    "/api/tags": ("models", "name"),
    "/api/ps": ("models", "name"),
    "/v1/models": ("data", "id"),
}
"""By path: the member that is the list, and what an entry is called in it."""

_OK = 200


class MergedLists:
    """Adds the upstream's models after ours; a name that both have is ours. Without an upstream everything passes.

    An upstream that is down has no models: our own are listed all the same.
    """

    def __init__(self, app: ASGIApp, *, upstream: Upstream | None) -> None:
        self.app = app
        self._upstream = upstream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_list = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] in LISTS
        if self._upstream is None or not is_list or HOP_HEADER in Headers(scope=scope):
            await self.app(scope, receive, send)
            return
        listing = asyncio.ensure_future(self._upstream.listed(scope["raw_path"], scope["headers"]))
        start: Message = {}
        pieces: list[bytes] = []

        async def keep(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                pieces.append(message.get("body", b""))

        try:
            await self.app(scope, receive, keep)
            theirs = await listing
        finally:
            listing.cancel()
        body, served_by = b"".join(pieces), "mlx"
        others = _entries(theirs, *LISTS[scope["path"]])
        if start["status"] == _OK and others is not None:
            body, served_by = _merged(body, others, *LISTS[scope["path"]]), "mlx, upstream"
        headers = MutableHeaders(scope=start)
        headers[SERVED_BY] = served_by
        if "content-length" in headers:
            headers["content-length"] = str(len(body))
        await send(start)
        await send({"type": "http.response.body", "body": body})


def _entries(theirs: object, member: str, name: str) -> list[dict[str, Any]] | None:
    """What the upstream lists, None if that is no list."""
    entries = theirs.get(member) if isinstance(theirs, dict) else None
    if entries is None and isinstance(theirs, dict) and member in theirs:
        return []
    if not isinstance(entries, list):
        return None
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get(name), str)]


def _merged(body: bytes, others: list[dict[str, Any]], member: str, name: str) -> bytes:
    whole = orjson.loads(body)
    ours = whole[member] or []
    known = {entry[name].lower() for entry in ours}
    whole[member] = [*ours, *(entry for entry in others if entry[name].lower() not in known)] or whole[member]
    return gojson.dumps(whole) + (b"\n" if body.endswith(b"\n") else b"")
