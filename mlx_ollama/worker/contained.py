"""mlx-lm believes in places that it is a program: it prints, and it ends the process. Here it does neither."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


class GaveUp(Exception):
    """mlx-lm would have ended the process; the message says with what status, and what it printed last."""


class Stopped(SystemExit):
    """An exit of ours, for whoever was told to end."""


@contextmanager
def contained() -> Iterator[None]:
    """What is printed in here goes to standard error.

    Raises:
        GaveUp: in place of an exit that is not ours.
    """
    heard = _Heard()
    try:
        with redirect_stdout(heard):
            yield
    except Stopped:
        raise
    except SystemExit as error:
        raise GaveUp(_last_words(error.code, heard.getvalue())) from error


class _Heard(io.StringIO):
    """Passes on at once what it keeps: the process may die before anybody asks."""

    def write(self, text: str) -> int:
        sys.stderr.write(text)
        return super().write(text)


def _last_words(code: int | str | None, printed: str) -> str:
    """Python takes a text in place of a status for 1, and prints it."""
    status, said = (1, code) if isinstance(code, str) else (code or 0, printed)
    *_, last = ["", *said.strip().splitlines()]
    return f"mlx-lm gave up (exit status {status})" + (f": {last}" if last else "")
