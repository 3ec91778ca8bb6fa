"""Signals of a process that waits: each wakes it, and those that ask for its end are remembered and passed on."""

import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What asks for an end: an operator, Ctrl-C, a terminal that closes."""


class Signals:
    """As a context manager, takes the signals of the process; `asked` is the one that asked for its end, if any.

    `pass_on` gets every such signal at once, even in the middle of a check that blocks.
    """

    def __init__(self, pass_on: Callable[[int], None]) -> None:
        self.asked: int | None = None
        self._pass_on = pass_on
        self._woken, self._waker = os.pipe()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for end in (self._woken, self._waker):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        self._take(signal.SIGCHLD, lambda *_: None)
        for name in ENDS:
            # Under nohup a terminal that closes asks for nothing.
            if signal.getsignal(name) is not signal.SIG_IGN:
                self._take(name, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)
        signal.set_wakeup_fd(-1)
        os.close(self._woken)
        os.close(self._waker)

    def wait(self, until: float, *others: Any) -> None:
        """Sleep until that time of the monotonic clock, a signal, or until one of `others` can be read."""
        select.select([self._woken, *others], [], [], max(0.0, until - time.monotonic()))
        with suppress(BlockingIOError):
            os.read(self._woken, 4096)

    def _take(self, name: int, handler: Callable[[int, FrameType | None], None]) -> None:
        self._before[name] = signal.signal(name, handler)

    def _ask(self, name: int, frame: FrameType | None) -> None:
        self.asked = name
        self._pass_on(name)
