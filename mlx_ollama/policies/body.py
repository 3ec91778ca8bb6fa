"""How bodies are read: those that are wanted in good time, the others to their end."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from starlette.types import Message, Receive

from mlx_ollama.errors import TooSlow

MOST_UNWANTED_BYTES = 16 * 1024 * 1024
PATIENCE_SECONDS = 1.0
"""Between two pieces."""

MOST_SECONDS = 5.0

SLOWEST_BYTES_PER_SECOND = 8192
"""What a body must come at on the whole once its head start is over: a byte now and then could last for ever."""


class Incoming:
    """A body that is to arrive in time.

    `timeout` is in seconds: as long may it be in silence between two pieces, and such a head start does it have on
    `SLOWEST_BYTES_PER_SECOND`. Only the first `most` bytes earn it time, if that is given.
    """

    def __init__(self, receive: Receive, timeout: float, most: int | None = None) -> None:
        self.size = 0
        self._receive = receive
        self._timeout = timeout
        self._most = most
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()

    async def next(self) -> Message:
        """The next piece, or the news that the client has gone.

        Raises:
            TooSlow: if it does not come in time.
        """
        earned = self.size if self._most is None else min(self.size, self._most)
        silence = self._clock() + self._timeout
        latest = self._began + self._timeout + earned / SLOWEST_BYTES_PER_SECOND
        try:
            async with asyncio.timeout_at(min(silence, latest)):
                message = await self._receive()
        except TimeoutError as error:
            if silence <= latest:
                raise TooSlow(f"no more of the request body came for {self._timeout:g} seconds") from error
            raise TooSlow(f"the request body came at less than {SLOWEST_BYTES_PER_SECOND} bytes a second") from error
        self.size += len(message.get("body", b""))
        return message


async def answered(answer: Callable[[], Awaitable[None]], receive: Receive) -> None:
    """Answer a request whose body is of no interest, without leaving the connection blocked or reset.

    The end of the body is awaited first, as Go does within limits: the server closes a connection with its answer if
    the body has not ended, and a client that still writes may then lose the answer. Whatever comes after these limits
    is read while the answer is sent.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(MOST_SECONDS):
            await _read(receive, MOST_UNWANTED_BYTES)
    reading = asyncio.ensure_future(_read(receive, None))
    try:
        await answer()
    finally:
        reading.cancel()


async def _read(receive: Receive, most: int | None) -> None:
    size = 0
    message: Message = {"more_body": True}
    while message.get("more_body", False) and (most is None or size <= most):
        async with asyncio.timeout(None if most is None else PATIENCE_SECONDS):
            message = await receive()
        size += len(message.get("body", b""))
