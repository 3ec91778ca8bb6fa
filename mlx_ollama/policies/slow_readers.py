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

        patience = _Patience(send, self._seconds)

        async def send_in_time(message: Message) -> None:
            for piece in _pieces(message):
                try:
                    await patience.send(piece)
                except _NobodyReads:
                    # At once and not below: another task than the one that sends may be at work for this client.
                    self._cut(scope.get("client") or ("", 0))
                    raise

        try:
            with suppress(_NobodyReads):
                await self.app(scope, receive, send_in_time)
        finally:
            patience.end()

    def _cut(self, client: tuple[str, int]) -> None:
        logger.warning("%s took nothing for %g s: hanging up (MLX_API_WRITE_TIMEOUT)", client[0], self._seconds)
        self._hang_up(client)


class _Patience:
    """Sends, one piece at a time, and gives up on one that takes too long.

    One timer looks after all pieces of an answer: one for each would be a fifth of what a token costs the gateway.
    """

    def __init__(self, send: Send, seconds: float) -> None:
        self._send = send
        self._seconds = seconds
        self._clock = asyncio.get_running_loop().time
        self._timer: asyncio.TimerHandle | None = None
        self._sender: asyncio.Task[object] | None = None
        self._since = 0.0
        self._is_over = False

    async def send(self, piece: Message) -> None:
        """Send a piece.

        Raises:
            _NobodyReads: if it was not taken in time.
        """
        self._sender, self._since = asyncio.current_task(), self._clock()
        cancelling = self._sender.cancelling() if self._sender else 0
        if self._timer is None:
            self._look_at(self._since + self._seconds)
        try:
            await self._send(piece)
        except asyncio.CancelledError as error:
            # Who is cancelled for another reason, too, obeys that.
            if self._is_over and self._sender and self._sender.uncancel() <= cancelling:
                raise _NobodyReads from error
            raise
        finally:
            self._sender = None

    def end(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look_at(self, moment: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(moment, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._sender is None:
            return
        if self._clock() < self._since + self._seconds:
            self._look_at(self._since + self._seconds)
        else:
            self._is_over = True
            self._sender.cancel()


def _pieces(message: Message) -> Iterator[Message]:
    body = message.get("body", b"")
    if len(body) <= PIECE_BYTES:
        yield message
        return
    more = message.get("more_body", False)
    for start in range(0, len(body), PIECE_BYTES):
        is_last = start + PIECE_BYTES >= len(body)
        yield {**message, "body": body[start : start + PIECE_BYTES], "more_body": more or not is_last}
