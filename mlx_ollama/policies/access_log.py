"""One line in the log for every request."""

import logging

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_ollama.records import current, new_id, record_of, sane_id

logger = logging.getLogger(__name__)

HEADER = "x-request-id"
OK = 200
FAULT = 500
"""From here on HTTP's statuses are the server's fault, and worth a look."""

ROUTINE = ("/health", "/metrics")
"""What machines ask every few seconds: of interest where it fails."""


class AccessLog:
    """Says what was asked, what came of it, and how long it took; `gone` for a client that left before any answer.

    Every request has an id, the client's own (`X-Request-Id`) if it is fit for a log. A client that sent one gets it
    back; the others, whom the reference tells nothing, do only with `tell_id`.
    """

    def __init__(self, app: ASGIApp, *, tell_id: bool = False) -> None:
        self.app = app
        self._tell_id = tell_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        theirs = sane_id(Headers(scope=scope).get(HEADER, ""))
        record = record_of(scope)
        record.id = theirs or new_id()
        status: int | str = "gone"

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if theirs or self._tell_id:
                    MutableHeaders(scope=message)[HEADER] = record.id
            await send(message)

        async def noted() -> Message:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                record.has_been_read()
            return message

        token = current.set(record)
        try:
            await self.app(scope, noted, watch)
        finally:
            record.is_over = True
            current.reset(token)
            # As it came: a decoded path could forge lines or speak to a terminal.
            path = scope.get("raw_path", b"").decode("latin-1")
            facts = {
                "request_id": record.id,
                "method": scope["method"],
                "path": path,
                "status": status,
                "client": (scope.get("client") or ("",))[0],
                **record.facts(scope["state"].get("call")),
            }
            told = ("method", "path", "status")
            logger.log(
                _level(path, status), "%s %s %s", scope["method"], path, status, extra={"facts": facts, "told": told}
            )


def _level(path: str, status: int | str) -> int:
    if path in ROUTINE and status == OK:
        return logging.DEBUG
    return logging.WARNING if isinstance(status, int) and status >= FAULT else logging.INFO
