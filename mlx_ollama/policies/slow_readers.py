"""What is done about clients that ask and do not read."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

PIECE_BYTES = 1 << 16
"""What has to be taken in time: a whole answer may be megabytes, for which a slow line needs its time."""


class _NobodyReads(Exception):
    """For the parts inside, which end with it."""


class SlowReaders:
    """Hangs up on a client that for `seconds` takes nothing, and ends the work for it.

    Its kernel, ours and the server hold a few megabytes at most; only then does a send wait. Over HTTP/2 Hypercorn
    takes the whole answer, and only its end waits. `hang_up` ends the connection of an address, for servers that would
    otherwise wait for the client.
    """

    def __init__(self, app: ASGIApp, *, seconds: float, hang_up: Callable[[tuple[str, int]], None]) -> None:
        self.app = app
        self._seconds = seconds
        self._hang_up = hang_up

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_in_time(message: Message) -> None:
            for piece in _pieces(message):
                try:
                    async with asyncio.timeout(self._seconds) as limit:
                        await send(piece)
                except TimeoutError as error:
                    if not limit.expired():
                        raise
                    # At once and not below: another task than the one that sends may be at work for this client.
                    self._cut(scope.get("client") or ("", 0))
                    raise _NobodyReads from error

        with suppress(_NobodyReads):
            await self.app(scope, receive, send_in_time)

    def _cut(self, client: tuple[str, int]) -> None:
        logger.warning("%s took nothing for %g s: hanging up (MLX_API_WRITE_TIMEOUT)", client[0], self._seconds)
        self._hang_up(client)


def _pieces(message: Message) -> Iterator[Message]:
    body = message.get("body", b"")
    if len(body) <= PIECE_BYTES:
        yield message
        return
    more = message.get("more_body", False)
    for start in range(0, len(body), PIECE_BYTES):
        is_last = start + PIECE_BYTES >= len(body)
        yield {**message, "body": body[start : start + PIECE_BYTES], "more_body": more or not is_last}
