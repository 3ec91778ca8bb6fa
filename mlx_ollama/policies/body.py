"""What is done with a body that nobody wants."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from starlette.types import Message, Receive

MOST_UNWANTED_BYTES = 256 * 1024
PATIENCE_SECONDS = 1.0


async def answered(answer: Callable[[], Awaitable[None]], receive: Receive) -> None:
    """Answer a request whose body is of no interest, without leaving the connection blocked or reset.

    The end of the body is awaited first, as Go does within limits: an answer against unread data may be lost. Whatever
    comes after these limits is read while the answer is sent.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
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
        message = await receive()
        size += len(message.get("body", b""))
