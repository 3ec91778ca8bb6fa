"""Requests to an ASGI application without a server, for tests of policies."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Scope

from mlx_ollama.types import Call, Completion

COMPLETION = Completion(model="m", prompt="x")


class Client:
    """One request, decoded already if `call` is given. What is sent to it is in `sent`; `leave` hangs up."""

    def __init__(
        self,
        path: str = "/api/generate",
        *,
        call: Call | None = COMPLETION,
        address: str = "10.0.0.1",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.scope: Scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "client": (address, 1234),
            "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
            "state": {} if call is None else {"call": call},
        }
        self.sent: list[Message] = []
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        if call is not None:
            self.sends(b"")

    def sends(self, body: bytes, *, more: bool = False) -> None:
        self._messages.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leave(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    def ask(self, app: ASGIApp) -> "asyncio.Task[None]":
        async def asked() -> None:
            await app(self.scope, self._messages.get, self.take)

        return asyncio.create_task(asked())

    async def take(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def error(self) -> Any:
        return json.loads(self.body)["error"]


async def settle() -> None:
    """Let everything happen that needs no time."""
    for _ in range(20):
        await asyncio.sleep(0)
