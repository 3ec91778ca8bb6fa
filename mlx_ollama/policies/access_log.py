"""One line in the log for every request."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

MILLISECONDS = 1000


class AccessLog:
    """Says what was asked, what came of it, and how long it took; `gone` for a client that left before any answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        status = "gone"

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            taken = (time.monotonic() - began) * MILLISECONDS
            # As it came: a decoded path could forge lines or speak to a terminal.
            path = scope.get("raw_path", b"").decode("latin-1")
            logger.info("%s %s %s %.0f ms", scope["method"], path, status, taken)
