"""Where a JSON object or array ends, in text that arrives in pieces."""

import re

_CLOSERS = {"{": "}", "[": "]"}
_DEEPEST = 100
_IN_STRING = re.compile(r'[^"\\]*')
_BETWEEN = re.compile(r"[\s\w,:+.\-]*")


class Brackets:
    """Counts brackets outside of strings, from an opening one to its closing one.

    `broken` is set where something stands that no JSON has, or that is nested deeper than anybody reads.
    """

    def __init__(self) -> None:
        self._open: list[str] = []
        self._in_string = False
        self._escaped = False
        self.broken = False

    @property
    def closers(self) -> str:
        """What is missing at the end."""
        return "".join(reversed(self._open))

    def add(self, text: str) -> int | None:
        """How much of `text` belongs to the value, where it ends or breaks; None while it goes on."""
        at = 0
        while at < len(text):
            at = self._in_quotes(text, at) if self._in_string else self._outside(text, at)
            if self.broken or not (self._open or self._in_string):
                return at
        return None

    def _in_quotes(self, text: str, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        at = _end(_IN_STRING, text, at)
        if at < len(text):
            self._escaped = text[at] == "\\"
            self._in_string = self._escaped
            at += 1
        return at

    def _outside(self, text: str, at: int) -> int:
        at = _end(_BETWEEN, text, at) if self._open else at
        if at == len(text):
            return at
        character = text[at]
        if character in _CLOSERS and len(self._open) < _DEEPEST:
            self._open.append(_CLOSERS[character])
        elif self._open and character == self._open[-1]:
            self._open.pop()
        elif character == '"':
            self._in_string = True
        else:
            self.broken = True
            return at
        return at + 1


def _end(pattern: "re.Pattern[str]", text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at
