"""Work in threads that nobody waits for any more."""

import asyncio
import socket
import threading
from collections.abc import Generator, Iterator
from contextlib import aclosing

from mlx_ollama.jobs import in_threads, interruptible
from mlx_ollama.models.children import lines_of


async def _leave_after(steps: Iterator[int], count: int) -> None:
    """Take so many steps, wait for another for a moment, and leave."""
    async with aclosing(in_threads(steps)) as taken:
        for _ in range(count):
            await anext(taken)
        next_one = asyncio.ensure_future(anext(taken))
        await asyncio.sleep(0.1)
        next_one.cancel()
        await asyncio.wait([next_one])


def _waiting(end: socket.socket, closed: threading.Event) -> Generator[int, None, None]:
    """Waits for ever for what comes from `end`, in two ways one after the other."""
    try:
        yield 1
        for _ in range(2):
            with interruptible(lambda: end.shutdown(socket.SHUT_RDWR)):
                assert not end.recv(1)
        yield 2
        raise AssertionError("nobody wants more than that")
    finally:
        closed.set()


def test_a_step_that_waits_ends_when_nobody_waits_for_it() -> None:
    ours, theirs = socket.socketpair()
    closed = threading.Event()
    with ours, theirs:
        asyncio.run(_leave_after(_waiting(ours, closed), 1))
        assert closed.is_set()


def test_a_process_that_tells_nothing_ends_when_nobody_waits_for_it() -> None:
    silent = lines_of("http.server", "0", "--bind", "127.0.0.1")
    asyncio.run(_leave_after((len(told) for told in silent), 0))


def test_without_anybody_who_could_leave_nothing_is_interrupted() -> None:
    interrupted = threading.Event()
    with interruptible(interrupted.set):
        pass
    assert not interrupted.is_set()
