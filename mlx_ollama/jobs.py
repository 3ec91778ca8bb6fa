"""Work that tells how far it is, done in threads and read from the event loop."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, copy_context
from typing import TypeVar

T = TypeVar("T")


class Leaving:
    """What is to be done, from another thread, about a step that waits for something while nobody waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._interrupts: list[Callable[[], None]] = []
        self._has_left = False

    @contextmanager
    def by(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Have `interrupt` called when nobody waits any more, be that so already."""
        with self._lock:
            self._interrupts.append(interrupt)
            if self._has_left:
                interrupt()
        try:
            yield
        finally:
            with self._lock:
                self._interrupts.remove(interrupt)

    def leave(self) -> None:
        with self._lock:
            self._has_left = True
            for interrupt in self._interrupts:
                interrupt()


_leaving: ContextVar[Leaving] = ContextVar("leaving")


def interruptible(interrupt: Callable[[], None]) -> AbstractContextManager[None]:
    """Around what may wait for long: `interrupt` is called from another thread to end that when nobody wants it.

    It must be quick and raise nothing. What is not done for somebody who can leave is never interrupted.
    """
    leaving = _leaving.get(None) or Leaving()
    return leaving.by(interrupt)


async def in_threads(steps: Iterator[T]) -> AsyncGenerator[T, None]:
    """The steps of a generator, each taken in a thread.

    Whoever stops reading stops the work at its next step, which comes at once where it is `interruptible`.
    """
    ended = object()
    step: asyncio.Future[object] | None = None
    # In a context of its own: what is set here would be the caller's, too.
    leaving, context = Leaving(), copy_context()
    context.run(_leaving.set, leaving)
    try:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(context.run, lambda: next(steps, ended)))
            found = await asyncio.shield(step)
            if found is ended:
                return
            yield found  # type: ignore[misc]
    finally:
        if step is not None and not step.done():
            # A generator can only be closed between two steps.
            step.add_done_callback(lambda taken: taken.exception())
            leaving.leave()
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
