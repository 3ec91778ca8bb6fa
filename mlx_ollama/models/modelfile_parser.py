"""Reading Modelfiles (wire-spec 12.1)."""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass

from mlx_ollama.errors import InvalidRequest
from mlx_ollama.models.modelfile import BLANKS, Statement, unquoted
from mlx_ollama.types import Message

INSTRUCTIONS = (
    *("from", "license", "template", "system", "adapter", "draft"),
    *("renderer", "parser", "parameter", "message", "requires"),
)
ROLES = ("system", "user", "assistant")

_LINE = re.compile(r"([^\r\n]*)(\r\n|\r|\n|\Z)")
_WORD = re.compile(r"(\S+?)(?:[ \t](.*))?")
_PARAMETER = re.compile(r"([A-Za-z0-9_]+)[ \t](.*)")
_MESSAGE = re.compile(r"(\S*)(?:[ \t](.*))?")
_SEMVER = re.compile(
    r"v?(0|[1-9]\d*)(\.(0|[1-9]\d*)(\.(0|[1-9]\d*)"
    r"(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?)?)?",
    re.ASCII,
)
_MARKS = ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF8, "utf-8"))


class InvalidModelfile(InvalidRequest):
    """The text is no Modelfile; the message says where and why."""

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(f"(line {line}): {reason}" if line else reason)


@dataclass(frozen=True)
class Modelfile:
    """The statements of a Modelfile, in its order."""

    statements: tuple[Statement, ...]

    @classmethod
    def parse(cls, text: str) -> "Modelfile":
        """Read a Modelfile's text.

        Raises:
            InvalidModelfile: with the number of the line where there is one.
        """
        statements = tuple(_statements(_Lines(text)))
        modelfile = cls(statements)
        if not modelfile.all("from"):
            raise InvalidModelfile("no FROM line")
        if any(not _SEMVER.fullmatch(version) for version in modelfile.all("requires")):
            raise InvalidModelfile("requires must be a valid semver (e.g. 0.14.0)")
        return modelfile

    def all(self, instruction: str) -> tuple[str, ...]:
        """Every value of an instruction."""
        return tuple(statement.value for statement in self.statements if statement.instruction == instruction)

    def last(self, instruction: str) -> str:
        """The value that counts where only one can; empty if there is none."""
        return "".join(self.all(instruction)[-1:])

    @property
    def parameters(self) -> tuple[tuple[str, str], ...]:
        """Names and texts; `models.parameters` knows their types."""
        return tuple((line.key, line.value) for line in self.statements if line.instruction == "parameter")

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(Message(line.key, line.value) for line in self.statements if line.instruction == "message")


def decoded(raw: bytes) -> str:
    """The text of a Modelfile's bytes: UTF-8, or UTF-16 if a byte order mark says so."""
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return raw.removeprefix(mark).decode(encoding, "replace")
    return raw.decode("utf-8", "replace")


class _Lines:
    """Lines and what ended each; `number` is that of the last one given, from 1."""

    def __init__(self, text: str) -> None:
        self.number = 0
        self._text = text
        self._at = 0

    def next(self) -> tuple[str, str] | None:
        if self._at >= len(self._text):
            return None
        found = _LINE.match(self._text, self._at)
        if found is None:  # it matches anywhere
            return None
        self._at = found.end()
        self.number += 1
        return found[1], found[2]


def _statements(lines: _Lines) -> Iterator[Statement]:
    while (line := lines.next()) is not None:
        text, end = line
        text = _from_first_printed(text)
        if text and not text.startswith("#"):
            yield _statement(text, end, lines)


def _statement(text: str, end: str, lines: _Lines) -> Statement:
    words = _WORD.fullmatch(text)
    word = words[1].lower() if words else ""
    if words is None or word not in INSTRUCTIONS:
        allowed = ", ".join(f'"{name}"' for name in INSTRUCTIONS[:-1])
        raise InvalidModelfile(f'command must be one of {allowed}, or "{INSTRUCTIONS[-1]}"', lines.number)
    if words[2] is None:
        raise InvalidModelfile(f"{word.upper()} has no value", lines.number)
    rest, key = words[2], ""
    if word == "parameter":
        key, rest = _parameter(rest.lstrip(BLANKS), lines.number)
    elif word == "message":
        key, rest = _message(rest.lstrip(BLANKS), lines.number)
    return Statement(word, _value(rest, end, lines), key)


def _parameter(text: str, number: int) -> tuple[str, str]:
    found = _PARAMETER.fullmatch(text)
    if not found:
        raise InvalidModelfile("PARAMETER needs a name and a value", number)
    return found[1], found[2]


def _message(text: str, number: int) -> tuple[str, str]:
    found = _MESSAGE.fullmatch(text)
    if not found or found[1] not in ROLES:
        raise InvalidModelfile('message role must be one of "system", "user", or "assistant"', number)
    if found[2] is None:
        raise InvalidModelfile("MESSAGE needs a role and a value", number)
    return found[1], found[2]


def _value(rest: str, end: str, lines: _Lines) -> str:
    """The value that begins with `rest`, over as many lines as its quotes span."""
    pieces = [_printed(rest).lstrip(BLANKS)]
    first = unquoted(pieces[0].rstrip(BLANKS))
    if first is not None:
        return first
    quotes = '"""' if pieces[0].startswith('"""') else '"'
    while (line := lines.next()) is not None:
        pieces.append(end)
        text, end = line
        pieces.append(_printed(text))
        if pieces[-1].rstrip(BLANKS).endswith(quotes):
            whole = "".join(pieces).rstrip(BLANKS)
            return whole[len(quotes) : -len(quotes)]
    raise InvalidModelfile("unexpected EOF")


def _from_first_printed(text: str) -> str:
    start = next((at for at, character in enumerate(text) if character.isprintable() and character != " "), len(text))
    return text[start:]


def _printed(text: str) -> str:
    """Without what no terminal prints; newlines are not in here."""
    if text.isprintable():
        return text
    return "".join(character for character in text if character.isprintable() or character in BLANKS)
