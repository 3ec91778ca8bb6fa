"""Reading what a person types: a line with editing and history, or several between triple quotes."""

from contextlib import suppress
from pathlib import Path

try:
    import readline

    EDITS = True
except ImportError:  # some builds of Python are without it; lines are then read as the terminal gives them
    EDITS = False

QUOTES = '"""'
_PROMPT, _CONTINUED = ">>> ", "... "
_MOST_LINES = 1000


class Interrupted(Exception):
    """Ctrl-C where a line was being typed."""


class LineReader:
    """Reads from the terminal. `history` is the file that lines are kept in; None keeps none."""

    def __init__(self, history: Path | None) -> None:
        self._file = history
        self._keeps = history is not None
        if EDITS:
            readline.set_auto_history(False)
        if EDITS and history is not None:
            with suppress(OSError):
                readline.read_history_file(history)

    def keep(self, *, wanted: bool) -> None:
        """Begin or stop to keep what is typed."""
        self._keeps = wanted and self._file is not None

    def read(self) -> str:
        """The next message: a line, or the lines from `\"\"\"` to `\"\"\"`, quotes included.

        Raises:
            EOFError: at the end of the input (Ctrl-D).
            Interrupted: for Ctrl-C.
        """
        try:
            text = input(_PROMPT)
            while _is_open(text):
                text += "\n" + input(_CONTINUED)
        except KeyboardInterrupt as interrupt:
            raise Interrupted from interrupt
        self._note(text)
        return text

    def _note(self, text: str) -> None:
        if not (EDITS and self._keeps and self._file and text.strip()):
            return
        # Line by line, as the file has them.
        for line in text.splitlines():
            readline.add_history(line)
        readline.set_history_length(_MOST_LINES)
        # Written at once: whoever is killed has a history, too.
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.touch(mode=0o600)
            readline.write_history_file(self._file)


def _is_open(text: str) -> bool:
    """Whether three quotes were opened, as a message or as the text of `/set system`, and not closed."""
    begun = text.strip().removeprefix("/set system").strip()
    return begun.startswith(QUOTES) and not (len(begun) >= 2 * len(QUOTES) and begun.endswith(QUOTES))


def without_quotes(text: str) -> str:
    """A message without the quotes that hold its lines together."""
    bare = text.strip()
    if bare.startswith(QUOTES) and bare.endswith(QUOTES) and len(bare) >= 2 * len(QUOTES):
        return bare[len(QUOTES) : -len(QUOTES)]
    return text
