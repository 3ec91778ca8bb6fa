"""Counts the requests that generate, and takes no more of them once the server is to stop."""

import asyncio
from typing import Literal

from starlette.types import ASGIApp, Receive, Scope, Send

from mlx_ollama.errors import ShuttingDown

Phase = Literal["starting", "serving", "draining"]


class InFlight:
    """How many answers are under way. Shared by the policy, which counts, and the server, which waits.

    `opened` becomes true once everything has started, `closed` when nothing new is taken any more.
    """

    def __init__(self) -> None:
        self.count = 0
        self.opened = False
        self.closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def phase(self) -> Phase:
        """Where the server is in its life."""
        if self.closed:
            return "draining"
        return "serving" if self.opened else "starting"

    def enter(self) -> None:
        """Begin an answer.

        Raises:
            ShuttingDown: once the server drains.
        """
        if self.closed:
            raise ShuttingDown
        self.count += 1
        self._idle.clear()

    def leave(self) -> None:
        self.count -= 1
        if not self.count:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until no answer is under way."""
        await self._idle.wait()


class Drain:
    """Lets running answers finish and refuses new ones while the server stops."""

    def __init__(self, app: ASGIApp, *, in_flight: InFlight) -> None:
        self.app = app
        self._in_flight = in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or "call" not in scope.get("state", {}):
            await self.app(scope, receive, send)
            return
        self._in_flight.enter()
        try:
            await self.app(scope, receive, send)
        finally:
            self._in_flight.leave()
