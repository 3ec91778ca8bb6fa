"""How long an answer may take, from the end of its request to its last byte."""

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from mlx_ollama.errors import DeadlinePassed
from mlx_ollama.policies.inference import is_inference


class Deadlines:
    """`seconds` for an answer, 0 for as long as it takes; and how many were not ready in time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.passed = 0


class Deadline:
    """Ends inference that takes too long: whatever it waits for is cancelled, and with it the work of the engine.

    Raises:
        DeadlinePassed: a 504, or the last line of a stream (`policies/errors.py` knows which).
    """

    def __init__(self, app: ASGIApp, *, deadlines: Deadlines) -> None:
        self.app = app
        self._deadlines = deadlines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not (self._deadlines.seconds and is_inference(scope)):
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._deadlines.seconds) as limit:
                await self.app(scope, receive, send)
        except TimeoutError:
            if not limit.expired():
                raise
            self._deadlines.passed += 1
            raise DeadlinePassed(self._deadlines.seconds) from None
