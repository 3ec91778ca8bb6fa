"""Work in threads that nobody waits for any more."""

import asyncio
import signal
import socket
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, aclosing
from functools import partial

import pytest

from mlx_ollama.jobs import in_threads, interruptible
from mlx_ollama.models.children import ChildFailed, lines_of


async def _leave_after(steps: Iterator[int], count: int) -> None:
    """Take so many steps, wait for another for a moment, and leave."""
    async with aclosing(in_threads(steps)) as taken:
        for _ in range(count):
            await anext(taken)
        next_one = asyncio.ensure_future(anext(taken))
        await asyncio.sleep(0.1)
        next_one.cancel()
        await asyncio.wait([next_one])


def _waiting(ends: Sequence[socket.socket], told: list[str]) -> Generator[int, None, None]:
    """Waits for ever for what comes from each of `ends`."""
    try:
        yield 1
        for end in ends:
            with interruptible(partial(end.shutdown, socket.SHUT_RDWR)):
                told.append(f"got {end.recv(1)!r}")
        yield 2
        told.append("asked for more")
    finally:
        told.append("closed")


def test_a_step_that_waits_ends_when_nobody_waits_for_it() -> None:
    told: list[str] = []
    with ExitStack() as stack:
        pairs = [[stack.enter_context(end) for end in socket.socketpair()] for _ in range(2)]
        asyncio.run(_leave_after(_waiting([ours for ours, _ in pairs], told), 1))
    assert told == ["got b''", "got b''", "closed"], "also what begins to wait when they have left"


def test_a_process_that_tells_nothing_ends_when_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    failures: list[str] = []

    def told_by_a_silent_process() -> Iterator[int]:
        try:
            for line in lines_of("http.server", "0", "--bind", "127.0.0.1"):
                yield len(line)
        except ChildFailed as error:
            failures.append(str(error))

    asyncio.run(_leave_after(told_by_a_silent_process(), 0))
    assert failures == [f"exit status {-signal.SIGTERM}"]
