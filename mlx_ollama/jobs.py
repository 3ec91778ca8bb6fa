"""Work that tells how far it is, done in threads and read from the event loop."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
    """The steps of a generator, all taken in a thread of its own.

    Whoever stops reading stops the work at its next step, which comes at once where it is `interruptible`.
    """
    ended = object()
    step: asyncio.Future[object] | None = None
    # In a context of its own: what is set here would be the caller's, too.
    leaving, context = Leaving(), copy_context()
    context.run(_leaving.set, leaving)
    loop = asyncio.get_running_loop()
    # The loop's own threads are few, and for what is soon done: who only asks how we are must not wait for a download.
    thread = ThreadPoolExecutor(1, thread_name_prefix="job")
    try:
        while True:
            step = loop.run_in_executor(thread, context.run, lambda: next(steps, ended))
            found = await asyncio.shield(step)
            if found is ended:
                return
            yield found  # type: ignore[misc]
    finally:
        if step is not None and not step.done():
            step.add_done_callback(lambda taken: taken.exception())
            leaving.leave()
        # It takes its turn after such a step: a generator can only be closed between two.
        closed = loop.run_in_executor(thread, copy_context().run, _close, steps)
        # What has been handed in is still done.
        thread.shutdown(wait=False)
        await asyncio.shield(closed)


def _close(steps: Iterator[object]) -> None:
    close = getattr(steps, "close", None)
    if close:
        close()
