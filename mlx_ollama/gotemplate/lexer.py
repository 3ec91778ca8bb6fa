"""Template text to tokens (wire-spec 12.2).

Tokens are made one at a time: a complaint about the end of a text must not win over one about its beginning.
"""

import re
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import ClassVar, NamedTuple

from mlx_ollama.gotemplate.gostring import describe_character, quote

_SPACE = " \t\r\n"
_SPACES = re.compile(r"[ \t\r\n]+")
_TRIM_AFTER_OPENING = re.compile(r"-[ \t\r\n]")
_CLOSING = re.compile(r"([ \t\r\n]-)?\}\}")
_DIGITS = "[0-9_]*"
_NUMBER = re.compile(
    r"[+-]?(?:"
    r"0[xX][0-9a-fA-F_]*(?:\.[0-9a-fA-F_]*)?(?:[pP][+-]?[0-9_]*)?"
    r"|0[oO][0-7_]*(?:\.[0-7_]*)?"
    r"|0[bB][01_]*(?:\.[01_]*)?"
    rf"|{_DIGITS}(?:\.{_DIGITS})?(?:[eE][+-]?{_DIGITS})?"
    r")i?",
)
_KEYWORDS = frozenset(
    ("block", "break", "continue", "define", "else", "end", "if", "range", "template", "with"),
)
_TERMINATORS = " \t\r\n.,|:()"
_LONGEST_QUOTE = 10


class Kind(Enum):
    ERROR = auto()
    EOF = auto()
    TEXT = auto()
    OPENING = auto()
    CLOSING = auto()
    SPACE = auto()
    KEYWORD = auto()
    IDENTIFIER = auto()
    FIELD = auto()
    VARIABLE = auto()
    DOT = auto()
    NIL = auto()
    BOOL = auto()
    NUMBER = auto()
    CHARACTER = auto()
    STRING = auto()
    PIPE = auto()
    DECLARE = auto()
    ASSIGN = auto()
    LEFT_PAREN = auto()
    RIGHT_PAREN = auto()
    OTHER = auto()


class Token(NamedTuple):
    kind: Kind
    text: str
    position: int
    line: int

    def __str__(self) -> str:
        """The token as complaints quote it."""
        if self.kind is Kind.EOF:
            return "EOF"
        if self.kind is Kind.ERROR:
            return self.text
        if self.kind in (Kind.KEYWORD, Kind.DOT, Kind.NIL):
            return f"<{self.text}>"
        if len(self.text) > _LONGEST_QUOTE:
            return f"{quote(self.text[:_LONGEST_QUOTE])}..."
        return quote(self.text)


class _LexError(Exception):
    pass


def tokenize(source: str) -> Iterator[Token]:
    """The tokens of `source`; the last one is EOF, or ERROR with the complaint as its text."""
    return _Lexer(source).tokens()


class _Lexer:
    def __init__(self, source: str) -> None:
        self._source = source
        self._start = 0
        self._position = 0
        self._line = 1
        self._open_parens = 0

    def tokens(self) -> Iterator[Token]:
        try:
            while (opening := self._source.find("{{", self._position)) >= 0:
                yield from self._text_before(opening)
                if self._is_comment():
                    self._skip_comment()
                else:
                    yield self._token(Kind.OPENING)
                    yield from self._action()
            yield from self._rest()
        except _LexError as error:
            yield self._token(Kind.ERROR, str(error))

    def _token(self, kind: Kind, text: str | None = None) -> Token:
        start, line = self._start, self._line
        lexeme = self._source[start : self._position]
        self._line += lexeme.count("\n")
        self._start = self._position
        return Token(kind, lexeme if text is None else text, start, line)

    def _skip_to(self, position: int) -> None:
        self._position = position
        self._line += self._source.count("\n", self._start, position)
        self._start = position

    def _text_before(self, opening: int) -> Iterator[Token]:
        trims = _TRIM_AFTER_OPENING.match(self._source, opening + 2)
        text = self._source[self._position : opening]
        kept = text.rstrip(_SPACE) if trims else text
        if kept:
            self._position += len(kept)
            yield self._token(Kind.TEXT)
        self._skip_to(opening)
        self._position = trims.end() if trims else opening + 2

    def _rest(self) -> Iterator[Token]:
        self._position = len(self._source)
        if self._start < self._position:
            yield self._token(Kind.TEXT)
        yield self._token(Kind.EOF)

    def _is_comment(self) -> bool:
        return self._source.startswith("/*", self._position)

    def _skip_comment(self) -> None:
        self._skip_to(self._position)
        end = self._source.find("*/", self._position + 2)
        if end < 0:
            raise _LexError("unclosed comment")
        closing = _CLOSING.match(self._source, end + 2)
        if not closing:
            raise _LexError("comment ends before closing delimiter")
        self._skip_to(closing.end())
        self._trim_after(closing)

    def _trim_after(self, closing: re.Match[str]) -> None:
        if closing[1] and (spaces := _SPACES.match(self._source, closing.end())):
            self._skip_to(spaces.end())

    def _action(self) -> Iterator[Token]:
        self._open_parens = 0
        while not (closing := _CLOSING.match(self._source, self._position)):
            yield self._inside()
        if self._open_parens:
            raise _LexError("unclosed left paren")
        self._skip_to(closing.end() - len("}}"))
        self._position = closing.end()
        yield self._token(Kind.CLOSING)
        self._trim_after(closing)

    def _inside(self) -> Token:
        character = self._peek()
        if not character:
            raise _LexError("unclosed action")
        if character in _SPACE:
            return self._spaces()
        if character in "+-" or (character.isascii() and character.isdigit()):
            return self._number()
        if _is_wordlike(character):
            return self._word()
        lex = self._BY_FIRST_CHARACTER.get(character)
        return lex(self) if lex else self._other(character)

    def _peek(self) -> str:
        return self._source[self._position : self._position + 1]

    def _spaces(self) -> Token:
        match = _SPACES.match(self._source, self._position)
        end = match.end() if match else self._position
        # The last space belongs to a closing delimiter that trims.
        self._position = end - 1 if self._source.startswith("-}}", end) else end
        return self._token(Kind.SPACE)

    def _skip_word(self) -> None:
        while _is_wordlike(self._peek()):
            self._position += 1

    def _must_terminate(self) -> None:
        if not _terminates(self._source, self._position):
            raise _LexError(f"bad character {describe_character(self._peek())}")

    def _word(self) -> Token:
        self._skip_word()
        word = self._source[self._start : self._position]
        self._must_terminate()
        if word in _KEYWORDS:
            return self._token(Kind.KEYWORD)
        if word in ("true", "false"):
            return self._token(Kind.BOOL)
        return self._token(Kind.NIL if word == "nil" else Kind.IDENTIFIER)

    def _dot(self) -> Token:
        following = self._source[self._position + 1 : self._position + 2]
        if not following or (following.isascii() and following.isdigit()):
            return self._number()
        return self._named(Kind.FIELD, alone=Kind.DOT)

    def _variable(self) -> Token:
        return self._named(Kind.VARIABLE, alone=Kind.VARIABLE)

    def _named(self, kind: Kind, *, alone: Kind) -> Token:
        self._position += 1
        start = self._position
        self._skip_word()
        if self._position == start and _terminates(self._source, start):
            return self._token(alone)
        self._must_terminate()
        return self._token(kind)

    def _number(self) -> Token:
        is_well_formed = self._skip_number()
        if is_well_formed and self._peek() in ("+", "-"):
            is_well_formed = self._skip_number() and self._source[self._position - 1] == "i"
        if not is_well_formed:
            raise _LexError(f"bad number syntax: {quote(self._source[self._start : self._position])}")
        return self._token(Kind.NUMBER)

    def _skip_number(self) -> bool:
        match = _NUMBER.match(self._source, self._position)
        self._position = match.end() if match else self._position
        if _is_wordlike(self._peek()):
            self._position += 1
            return False
        return True

    def _string(self) -> Token:
        return self._quoted(Kind.STRING, "unterminated quoted string")

    def _character(self) -> Token:
        return self._quoted(Kind.CHARACTER, "unterminated character constant")

    def _quoted(self, kind: Kind, complaint: str) -> Token:
        quotation_mark = self._peek()
        self._position += 1
        while (character := self._peek()) != quotation_mark:
            if character == "\\":
                self._position += 1
                character = self._peek()
            if character in ("", "\n"):
                raise _LexError(complaint)
            self._position += 1
        self._position += 1
        return self._token(kind)

    def _raw_string(self) -> Token:
        end = self._source.find("`", self._position + 1)
        if end < 0:
            raise _LexError("unterminated raw quoted string")
        self._position = end + 1
        return self._token(Kind.STRING)

    def _declare(self) -> Token:
        if not self._source.startswith(":=", self._position):
            raise _LexError("expected :=")
        self._position += 2
        return self._token(Kind.DECLARE)

    def _assign(self) -> Token:
        return self._single(Kind.ASSIGN)

    def _pipe(self) -> Token:
        return self._single(Kind.PIPE)

    def _left_paren(self) -> Token:
        self._open_parens += 1
        return self._single(Kind.LEFT_PAREN)

    def _right_paren(self) -> Token:
        self._open_parens -= 1
        if self._open_parens < 0:
            raise _LexError("unexpected right paren")
        return self._single(Kind.RIGHT_PAREN)

    def _single(self, kind: Kind) -> Token:
        self._position += 1
        return self._token(kind)

    def _other(self, character: str) -> Token:
        if character.isascii() and character.isprintable():
            return self._single(Kind.OTHER)
        raise _LexError(f"unrecognized character in action: {describe_character(character)}")

    _BY_FIRST_CHARACTER: ClassVar[dict[str, Callable[["_Lexer"], Token]]] = {
        ".": _dot,
        "$": _variable,
        '"': _string,
        "'": _character,
        "`": _raw_string,
        ":": _declare,
        "=": _assign,
        "|": _pipe,
        "(": _left_paren,
        ")": _right_paren,
    }


def _is_wordlike(character: str) -> bool:
    return character == "_" or character.isalpha() or character.isdecimal()


def _terminates(source: str, position: int) -> bool:
    following = source[position : position + 1]
    return not following or following in _TERMINATORS or source.startswith("}}", position)
