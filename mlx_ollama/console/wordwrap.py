"""Breaking a streamed text between words, at the width of a terminal."""

import unicodedata

_WIDE = ("W", "F")
_TAB = 8


def columns_of(text: str) -> int:
    """How many columns a terminal gives to `text`, which has no control characters."""
    return len(text) if text.isascii() else sum(_columns(character) for character in text)


class WordWrap:
    """Wraps a text that comes in pieces. A word that turns out too long for its line is taken back and begins the next.

    `width` is in columns. A word that is wider than a line is left to the terminal, which breaks it where it must.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._column = 0
        self._word = ""

    def feed(self, text: str) -> str:
        """What to write for the next piece."""
        return "".join(self._character(character) for character in text)

    def _character(self, character: str) -> str:
        if character == "\n":
            self._column, self._word = 0, ""
            return character
        if character in " \t":
            self._word = ""
            return self._blank(character)
        taken = _columns(character)
        if self._column + taken <= self._width:
            self._word += character
            return self._put(character, taken)
        return self._carry(character, taken)

    def _blank(self, character: str) -> str:
        """A blank that would begin a line ends one."""
        columns = 1 if character == " " else _TAB - self._column % _TAB
        if self._column + columns > self._width:
            self._column = 0
            return "\n"
        return self._put(character, columns)

    def _put(self, text: str, columns: int) -> str:
        self._column += columns
        return text

    def _carry(self, character: str, taken: int) -> str:
        """A new line, with the word that does not fit unless it fills a line by itself."""
        begun = columns_of(self._word)
        if begun >= self._column:
            self._column, self._word = taken, character
            return f"\n{character}"
        self._word += character
        self._column = begun + taken
        back = f"\x1b[{begun}D\x1b[K" if begun else ""
        return f"{back}\n{self._word}"


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in _WIDE else 1
