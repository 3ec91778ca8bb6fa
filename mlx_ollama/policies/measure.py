"""Counts what came of every request."""

from collections.abc import Callable
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLIENT_ERROR, SERVER_ERROR = 400, 500
REFUSALS = (429, 503, 504)


class Figures(Protocol):
    """Who counts."""

    def request(self, endpoint: str | None, outcome: str, error: BaseException | None) -> None:
        """A request has ended; `error` is what it was refused with, if anything."""
        ...


class Measure:
    """Tells `figures` of each request's endpoint and outcome.

    Outcomes are `ok`, `client_error`, `server_error`, `refused` (429, 503, 504), `broken` for an answer that failed
    after its status was sent, and `gone` for a client that left before its end. `endpoint_of` gives the route of a
    path, None for a path that is not there: whatever strangers ask for, the labels stay few.
    """

    def __init__(self, app: ASGIApp, *, figures: Figures, endpoint_of: Callable[[str], str | None]) -> None:
        self.app = app
        self._figures = figures
        self._endpoint_of = endpoint_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, is_complete = 0, False

        async def watch(message: Message) -> None:
            nonlocal status, is_complete
            await send(message)
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                is_complete = not message.get("more_body", False)

        try:
            await self.app(scope, receive, watch)
        finally:
            error = scope.get("state", {}).get("error")
            outcome = _outcome(status, error, is_complete=is_complete)
            self._figures.request(self._endpoint_of(scope["path"]), outcome, error)


def _outcome(status: int, error: BaseException | None, *, is_complete: bool) -> str:
    if not status or not is_complete:
        return "gone"
    if status in REFUSALS:
        return "refused"
    if status >= SERVER_ERROR:
        return "server_error"
    if status >= CLIENT_ERROR:
        return "client_error"
    return "broken" if error is not None else "ok"
