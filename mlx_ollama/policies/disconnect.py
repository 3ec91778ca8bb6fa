"""Ends the work of a request whose client has gone, streamed or not, waiting or generating."""

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_ollama.policies.body import answered


class CancelOnDisconnect:
    """Cancels everything inside when the client closes.

    A server tells of a disconnect once, and only to whoever reads: for requests whose body has been decoded this is the
    one reader, and nothing inside reads any more. The others are short work, and their bodies are of no interest, but
    for POSTs to paths that begin with `uploads`, which read for themselves.
    """

    def __init__(self, app: ASGIApp, *, uploads: str) -> None:
        self.app = app
        self._uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_upload = scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith(self._uploads)
        if scope["type"] != "http" or is_upload:
            await self.app(scope, receive, send)
            return
        if "call" not in scope.get("state", {}):
            await answered(lambda: self.app(scope, _nothing_to_read, send), receive)
            return
        work = asyncio.ensure_future(self.app(scope, _nothing_to_read, send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
                with suppress(asyncio.CancelledError):
                    await work
        if not work.cancelled():
            work.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _nothing_to_read() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")
