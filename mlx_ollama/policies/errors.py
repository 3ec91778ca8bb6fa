"""Renders every error once, in the caller's dialect."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_ollama import errors
from mlx_ollama.dialects.answers import Refuse, Stage
from mlx_ollama.policies.body import answered
from mlx_ollama.records import record_of

logger = logging.getLogger(__name__)

SETTING_HEADER = "x-mlx-ollama-setting"
"""Names the setting that would have let a refused request in."""

STATUS: dict[type[errors.MlxOllamaError], int] = {
    errors.InvalidRequest: 400,
    errors.Unauthorized: 401,
    errors.ModelNotFound: 404,
    errors.NoEmbeddings: 501,
    errors.LimitReached: 503,
    errors.TooLarge: 413,
    errors.TooSlow: 408,
    errors.RateLimited: 429,
    errors.DeadlinePassed: 504,
    errors.InvalidOption: 500,
    errors.TemplateFailed: 500,
    errors.CloudDisabled: 403,
    errors.JobFailed: 500,
    errors.UpstreamDown: 502,
    errors.OutOfMemory: 503,
    errors.ShuttingDown: 503,
    errors.LoadPaused: 503,
    errors.WorkerError: 500,
}
"""By the nearest class in the error's line of descent."""


def status_of(error: errors.MlxOllamaError) -> int:
    """The status code of an error, 500 for one that nobody has classed."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


class Errors:
    """Turns what is raised inside into an answer, or into the last words of a stream that has begun.

    `refuse_of` gives the dialect of a path. A stream leaves in `scope["state"]["last_words"]` how it would say a
    message; any other answer that has begun can only be cut off. Of a body that nobody has read the rest is read while
    the answer is sent.
    """

    def __init__(self, app: ASGIApp, *, refuse_of: Callable[[str], Refuse]) -> None:
        self.app = app
        self._refuse_of = refuse_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, is_read = False, False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        async def watch_body() -> Message:
            nonlocal is_read
            message = await receive()
            is_read = is_read or not message.get("more_body", False)
            return message

        async def refuse(status: int, message: str, facts: Mapping[str, str] = MappingProxyType({})) -> None:
            refusal = self._refuse_of(scope["path"])(status, message, _stage(scope))
            answer = partial(_answer, send, status, {**refusal.headers, **facts}, refusal.body)
            await (answer() if is_read else answered(answer, receive))

        try:
            await self.app(scope, watch_body, watch)
        except errors.MlxOllamaError as error:
            record_of(scope).error = error.message
            # For those outside who count.
            scope.setdefault("state", {})["error"] = error
            last_words: Callable[[str], bytes] | None = scope.get("state", {}).get("last_words")
            if not begun:
                await refuse(status_of(error), error.message, _facts(error))
            elif last_words is None:
                raise
            else:
                await send({"type": "http.response.body", "body": last_words(error.message)})
        # The last resort of the server: a fault of ours must not take the connection down without a word.
        except Exception:
            if begun:
                raise
            logger.exception("%s %s failed", scope["method"], scope["path"])
            await refuse(500, "internal server error")


def _facts(error: errors.MlxOllamaError) -> dict[str, str]:
    """What a caller can go by who was refused (RFC 9110, 10.2.3 and 11.6.1)."""
    setting = error.setting if isinstance(error, errors.LimitReached) else ""
    facts = {
        SETTING_HEADER: setting,
        "retry-after": "" if error.retry_after is None else str(error.retry_after),
        "www-authenticate": "Bearer" if isinstance(error, errors.Unauthorized) else "",
    }
    return {name: value for name, value in facts.items() if value}


async def _answer(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    listed = [(name.encode(), value.encode()) for name, value in headers.items()]
    listed.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": body})


def _stage(scope: Scope) -> Stage:
    state = scope.get("state", {})
    if state.get("job"):
        return "answering"
    return "checking" if "call" in state else "decoding"
