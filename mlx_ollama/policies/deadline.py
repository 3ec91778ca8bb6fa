"""How long an answer may take, from the end of its request to its last byte."""

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from mlx_ollama.errors import DeadlinePassed
from mlx_ollama.policies.inference import is_inference


class Deadline:
    """Ends inference that takes more than `seconds`: what it waits for is cancelled, and with it the engine's work.

    0 is for as long as it takes.

    Raises:
        DeadlinePassed: a 504, or the last line of a stream (`policies/errors.py` knows which).
    """

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self.app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not (self._seconds and is_inference(scope)):
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds) as limit:
                await self.app(scope, receive, send)
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlinePassed(self._seconds) from None
