"""Work that tells how far it is, done in threads and read from the event loop."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import TypeVar

T = TypeVar("T")


async def in_threads(steps: Iterator[T]) -> AsyncGenerator[T, None]:
    """The steps of a generator, each taken in a thread. Whoever stops reading stops the work at its next step."""
    ended = object()
    step: asyncio.Future[object] | None = None
    try:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(next, steps, ended))
            found = await asyncio.shield(step)
            if found is ended:
                return
            yield found  # type: ignore[misc]
    finally:
        if step is not None and not step.done():
            # A generator can only be closed between two steps.
            step.add_done_callback(lambda taken: taken.exception())
            await asyncio.shield(_closed(step, steps))
        else:
            await asyncio.to_thread(_close, steps)


async def _closed(step: "asyncio.Future[object]", steps: Iterator[object]) -> None:
    await asyncio.wait([step])
    await asyncio.to_thread(_close, steps)


def _close(steps: Iterator[object]) -> None:
    close = getattr(steps, "close", None)
    if close:
        close()
