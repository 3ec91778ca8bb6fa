"""Our own models first, the upstream second."""

import logging
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_ollama.dialects.answers import NDJSON, SSE
from mlx_ollama.errors import LoadFailed, MlxOllamaError, ModelNotFound, OutOfMemory, Overloaded, UpstreamDown
from mlx_ollama.types import Call, Embed, Generation, Show
from mlx_ollama.upstream import HOP_HEADER, Upstream, answered_headers

logger = logging.getLogger(__name__)

SERVED_BY = "x-mlx-ollama-served-by"
ELSEWHERE: tuple[type[MlxOllamaError], ...] = (ModelNotFound, Overloaded, LoadFailed, OutOfMemory)
"""The refusals after which another server may well have an answer."""

_MODELS = "/v1/models/"
_NOT_FOUND = 404


class Fallback:
    """Asks `upstream` what was refused here before the first byte; without an upstream everything passes.

    The request goes out as it came, the answer comes back as it comes, and a header says who gave it. Only calls of a
    model go: what changes a store is meant for the store that was asked. `last_words_of` gives, by path and call, the
    way in which a stream says why it breaks.

    Raises:
        UpstreamDown: with the refusal, too, if the upstream has no answer.
        MlxOllamaError: the refusal, if the upstream lacks the model that could not be used here.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        upstream: Upstream | None,
        last_words_of: Callable[[str, Call], Callable[[str], bytes] | None],
    ) -> None:
        self.app = app
        self._upstream = upstream
        self._last_words_of = last_words_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._upstream is None or not _is_for_a_model(scope):
            await self.app(scope, receive, send)
            return
        begun = False

        async def send_as_ours(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[SERVED_BY] = "mlx"
            await send(message)

        try:
            await self.app(scope, receive, send_as_ours)
            return
        except ELSEWHERE as error:
            if begun or HOP_HEADER in Headers(scope=scope):
                raise
            refusal = error
        logger.info("%s %s goes to the upstream: %s", scope["method"], scope["path"], refusal.message)
        try:
            await self._pass_on(self._upstream, scope, send, refusal)
        except UpstreamDown as down:
            both = UpstreamDown(f"{refusal.message}, and {down.message}")
            both.retry_after = down.retry_after if refusal.retry_after is None else refusal.retry_after
            raise both from down

    async def _pass_on(self, upstream: Upstream, scope: Scope, send: Send, refusal: MlxOllamaError) -> None:
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        state = scope.setdefault("state", {})
        # What may have been prepared here for a stream of ours.
        state.pop("last_words", None)
        async with upstream.ask(scope["method"], target, scope["headers"], state.get("body", b"")) as answer:
            if answer.status_code == _NOT_FOUND and not isinstance(refusal, ModelNotFound):
                # The model is here: that it is not there, too, is nothing to tell.
                raise refusal
            if "call" in state and _is_readable_stream(answer.headers):
                state["last_words"] = self._last_words_of(scope["path"], state["call"])
            headers = [*answered_headers(answer), (SERVED_BY.encode(), b"upstream")]
            await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
            async for piece in answer.aiter_raw():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _is_readable_stream(headers: Mapping[str, str]) -> bool:
    """Whether last words can be added to an answer."""
    content_type = headers.get("content-type", "").partition(";")[0].strip()
    return content_type in (NDJSON, SSE) and "content-encoding" not in headers and "content-length" not in headers


def _is_for_a_model(scope: Scope) -> bool:
    if scope["type"] != "http":
        return False
    call = scope.get("state", {}).get("call")
    if isinstance(call, Generation | Embed | Show):
        return bool(call.model)
    return bool(scope["method"] == "GET" and scope["path"].startswith(_MODELS))
