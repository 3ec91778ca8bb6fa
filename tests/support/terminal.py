"""A program in a terminal of its own, and somebody who reads and types there."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from tests.support.server import clean_environment

_CURSOR_QUERY, _CURSOR = b"\x1b[6n", b"\x1b[1;1R"
_CODES = re.compile(r"\x1b\[[?0-9;]*[a-zA-Z]|\x1b\].*?(?:\x07|\x1b\\)")
_SECONDS = 60.0
_PRESS_AGAIN_SECONDS = 5.0
_TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Ctrl-C in the terminal is then for the program."""


class Terminal:
    """`seen` is all that was written so far, `text` the same without codes for cursors and colours."""

    def __init__(self, command: Sequence[str], columns: int, env: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.seen = ""
        self._raw = b""
        self._from = 0
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=_environment() | dict(env),
            start_new_session=True,
        )
        os.close(theirs)

    @property
    def text(self) -> str:
        return _CODES.sub("", self.seen).replace("\r", "")

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def line(self, text: str, until: str = ">>> ") -> str:
        """Type a line; what is written from then on until some words come, without codes."""
        self.type(f"{text}\r")
        return self.expect(until)

    def interrupt(self, until: str) -> str:
        """Press Ctrl-C, and again as a person would when nothing happens; all up to some words.

        CPython's reading of a line takes notice of a signal with the next key only if it comes between the prompt and
        the wait for keys.
        """
        for _ in range(int(_SECONDS / _PRESS_AGAIN_SECONDS)):
            self.type("\x03")
            with suppress(AssertionError):
                return self.expect(until, _PRESS_AGAIN_SECONDS)
        raise AssertionError(f"Ctrl-C did nothing: {self.text[self._from :]!r}")

    def expect(self, words: str, seconds: float = _SECONDS) -> str:
        """Wait for words that have not been waited for yet; all up to their end."""
        deadline = time.monotonic() + seconds
        while words not in self.text[self._from :]:
            assert time.monotonic() < deadline, f"{words!r} did not come in {self.text[self._from :]!r}"
            self._read(0.2)
        end = self.text.index(words, self._from) + len(words)
        found, self._from = self.text[self._from : end], end
        return found

    def more(self, characters: int, seconds: float = _SECONDS) -> None:
        """Wait until so many more are written."""
        wanted, deadline = len(self.text) + characters, time.monotonic() + seconds
        while len(self.text) < wanted:
            assert time.monotonic() < deadline, f"nothing more came after {self.text[-300:]!r}"
            self._read(0.2)

    def ended(self, seconds: float = _SECONDS) -> int:
        """Wait for the program's end; its status."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it goes on: {self.text[-300:]!r}"
            self._read(0.1)
        return self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def _read(self, seconds: float) -> None:
        ready, _, _ = select.select([self._ours], [], [], seconds)
        try:
            piece = os.read(self._ours, 1 << 16) if ready else b""
        except OSError:  # nobody holds the other end any more
            return
        self._raw += piece
        self.seen = self._raw.decode("utf-8", "replace")
        if _CURSOR_QUERY in piece:
            os.write(self._ours, _CURSOR)


def _environment() -> dict[str, str]:
    """Without the size of another terminal, which would count more than the one that is asked."""
    others = ("COLUMNS", "LINES", "TERM")
    return {name: value for name, value in clean_environment().items() if name not in others} | {"TERM": "xterm"}


@contextmanager
def terminal(command: Sequence[str], *, columns: int = 80, env: Mapping[str, str] | None = None) -> Iterator[Terminal]:
    opened = Terminal(command, columns, env or {})
    try:
        yield opened
    finally:
        opened.close()
