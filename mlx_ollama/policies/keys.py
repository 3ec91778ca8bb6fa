"""Lets nobody in without a key, where the operator has set some."""

import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mlx_ollama.errors import Unauthorized

OPEN_PATHS = ("/", "/api/version")
"""What clients ask to find out whether a server is there."""

CREDENTIALS = ("authorization", "x-api-key")
"""The headers that a key comes in; they are for this server, and no other."""


class Keys:
    """Asks for one of `keys`, as `Authorization: Bearer` or `x-api-key`; without keys everybody may ask.

    It stands inside `Origin`, for browsers ask what they may send before they send a key, and before whoever reads the
    body.

    Raises:
        Unauthorized: without a key, or with another.
    """

    def __init__(self, app: ASGIApp, *, keys: Sequence[str]) -> None:
        self.app = app
        self._digests = [_digest(key) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_guarded = self._digests and scope["type"] == "http" and scope["path"] not in OPEN_PATHS
        if is_guarded and not self._knows(Headers(scope=scope)):
            raise Unauthorized
        await self.app(scope, receive, send)

    def _knows(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        shown = [headers.get("x-api-key", ""), token.strip() if scheme.lower() == "bearer" else ""]
        # Each is compared with each, so that the time taken tells neither which key was nearly right nor its length.
        matches = [hmac.compare_digest(_digest(key), digest) for key in shown for digest in self._digests]
        return any(matches)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
