"""Renders every error once, in the caller's dialect."""

import logging
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_ollama import errors
from mlx_ollama.dialects.answers import Refuse, Stage
from mlx_ollama.records import record_of

logger = logging.getLogger(__name__)

STATUS: dict[type[errors.MlxOllamaError], int] = {
    errors.InvalidRequest: 400,
    errors.ModelNotFound: 404,
    errors.NoEmbeddings: 501,
    errors.TooLarge: 413,
    errors.TooSlow: 408,
    errors.InvalidOption: 500,
    errors.TemplateFailed: 500,
    errors.CloudDisabled: 403,
    errors.JobFailed: 500,
    errors.ShuttingDown: 503,
    errors.WorkerError: 500,
}
"""By the nearest class in the error's line of descent."""


def status_of(error: errors.MlxOllamaError) -> int:
    """The status code of an error, 500 for one that nobody has classed."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


class Errors:
    """Turns what is raised inside into an answer; a response that has begun can only be cut off.

    `refuse_of` gives the dialect of a path.
    """

    def __init__(self, app: ASGIApp, *, refuse_of: Callable[[str], Refuse]) -> None:
        self.app = app
        self._refuse_of = refuse_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except errors.MlxOllamaError as error:
            if begun:
                raise
            await _refuse(self._refuse_of(scope["path"]), scope, send, status_of(error), error.message)
        # The last resort of the server: a fault of ours must not take the connection down without a word.
        except Exception:
            if begun or scope["type"] != "http":
                raise
            logger.exception("%s %s failed", scope["method"], scope["path"])
            await _refuse(self._refuse_of(scope["path"]), scope, send, 500, "internal server error")


async def _refuse(refuse: Refuse, scope: Scope, send: Send, status: int, message: str) -> None:
    record_of(scope).error = message
    refusal = refuse(status, message, _stage(scope))
    headers = [(name.encode(), value.encode()) for name, value in refusal.headers.items()]
    headers.append((b"content-length", str(len(refusal.body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": refusal.body})


def _stage(scope: Scope) -> Stage:
    state = scope.get("state", {})
    if state.get("job"):
        return "answering"
    return "checking" if "call" in state else "decoding"
