"""Bars with percentage, size, rate and time left; a spinner where nothing can be counted. Both on standard error."""

import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self, TextIO

from mlx_ollama.console.harmless import harmless
from mlx_ollama.console.human import size, time_left

_REDRAW_SECONDS = 0.1
_RATE_SECONDS = 5.0
"""Over how long a rate is measured."""

_NARROWEST_BAR = 10
_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_HIDE, _SHOW, _CLEAR = "\x1b[?25l", "\x1b[?25h", "\r\x1b[K"


class Progress:
    """Tells of steps that follow each other. On a terminal a bar moves; elsewhere each step is a line, told once."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._clock = clock
        self._status = ""
        self._rate = Rate(clock)
        self._drawn = -_REDRAW_SECONDS

    def tell(self, status: str, completed: int = 0, total: int = 0) -> None:
        """A step, and how many of its bytes are done; `total` 0 where that means nothing."""
        status = harmless(status, self._stream)
        if status != self._status:
            self._begin(status)
        self._rate.note(completed)
        due = self._clock() - self._drawn >= _REDRAW_SECONDS
        if self._terminal and (due or (total and completed >= total)):
            self._drawn = self._clock()
            self._write(_CLEAR + self._line(completed, total))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Leave the last line as it is and go to the next."""
        if self._terminal and self._status:
            self._write("\n")
        self._status = ""

    def _begin(self, status: str) -> None:
        self.end()
        self._status, self._rate = status, Rate(self._clock)
        self._drawn = -_REDRAW_SECONDS
        if not self._terminal:
            self._write(f"{status}\n")

    def _line(self, completed: int, total: int) -> str:
        width = shutil.get_terminal_size().columns - 1
        if not total:
            return self._status[:width]
        left = f"{self._status} {100 * min(completed, total) // total:3d}% "
        right = f" {size(completed)}/{size(total)}{self._speed(total - completed)}"
        room = width - len(left) - len(right) - 2
        if room < _NARROWEST_BAR:
            return (left + right)[:width]
        full = min(room, room * completed // total)
        return f"{left}▕{'█' * full}{' ' * (room - full)}▏{right}"

    def _speed(self, missing: int) -> str:
        rate = self._rate.per_second
        if rate <= 0 or missing <= 0:
            return ""
        return f"  {size(int(rate))}/s  {time_left(missing / rate)}"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class Rate:
    """How fast a count grows, over its last seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, count: int) -> None:
        now = self._clock()
        self._seen.append((now, count))
        while now - self._seen[0][0] > _RATE_SECONDS:
            self._seen.popleft()

    @property
    def per_second(self) -> float:
        """0 until there is something to compare."""
        (begun, first), (ended, last) = self._seen[0], self._seen[-1]
        return (last - first) / (ended - begun) if ended > begun else 0.0


@contextmanager
def spinner(stream: TextIO) -> Iterator[Callable[[], None]]:
    """Something turns on a terminal until the function that is given is called, or the block ends."""
    over = threading.Event()

    def turn() -> None:
        at = 0
        stream.write(_HIDE)
        while not over.wait(_REDRAW_SECONDS):
            stream.write(f"\r{_FRAMES[at % len(_FRAMES)]} ")
            stream.flush()
            at += 1
        stream.write(_CLEAR + _SHOW)
        stream.flush()

    def stop() -> None:
        over.set()
        if thread.is_alive():
            thread.join()

    thread = threading.Thread(target=turn, daemon=True)
    if stream.isatty():
        thread.start()
    try:
        yield stop
    finally:
        stop()
