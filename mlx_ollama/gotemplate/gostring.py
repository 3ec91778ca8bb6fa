"""Go strings in Python: they are bytes there, so a slice may cut a character in two.

Such halves live in Python strings as surrogate escapes, and join again to a whole character.
"""

import re
from collections.abc import Iterator

_SIMPLE_ESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, "'": 39, '"': 34}
_ESCAPE = re.compile(
    r"\\(?:(?P<simple>[abfnrtv\\'\"])|x(?P<byte>[0-9a-fA-F]{2})|(?P<octal>[0-7]{3})"
    r"|u(?P<short>[0-9a-fA-F]{4})|U(?P<long>[0-9a-fA-F]{8}))",
)
_LARGEST_BYTE = 0xFF
_LARGEST_CHARACTER = 0x10FFFF
_PIECE = 1 << 16
_SURROGATES = range(0xD800, 0xE000)
_ESCAPED_BYTES = range(0xDC80, 0xDD00)
_LARGEST_SHORT = 0xFFFF
_DELETE = 0x7F
_QUOTED = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
}


def in_pieces(text: str) -> Iterator[str]:
    """A text that may be long, for what takes much room for each of its characters."""
    return (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))


def to_bytes(text: str) -> bytes:
    """The UTF-8 of `text`, halves of characters included."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def from_bytes(raw: bytes) -> str:
    """A string that `to_bytes` turns into `raw` again."""
    return raw.decode("utf-8", "surrogateescape")


def clean(text: str) -> str:
    """`text` with what is not UTF-8 replaced, as Go does when it writes JSON or a reader decodes it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return to_bytes(text).decode("utf-8", "replace")
    return text


def size(text: str) -> int:
    """The length in bytes, which is what Go means by it."""
    return len(text) if text.isascii() else len(to_bytes(text))


def describe_character(character: str) -> str:
    """`U+0040 '@'`, as complaints name a character."""
    described = f"U+{ord(character):04X}"
    return f"{described} '{character}'" if character.isprintable() else described


def quote(text: str, *, ascii_only: bool = False) -> str:
    """`text` as a Go string literal (the verb %q)."""
    # A list of all characters takes many times the memory of the text.
    quoted = ("".join(_quote_character(each, '"', ascii_only) for each in piece) for piece in in_pieces(text))
    return f'"{"".join(quoted)}"'


def quote_character(code: int, *, ascii_only: bool = False) -> str:
    """A code point as a Go character literal (the verb %q of a number)."""
    character = character_of(code)
    return "'" + _quote_character(character, "'", ascii_only) + "'"


def character_of(code: int) -> str:
    """The character with this code point, U+FFFD where there is none."""
    if 0 <= code <= _LARGEST_CHARACTER and code not in _SURROGATES:
        return chr(code)
    return "\ufffd"


def unquote(literal: str) -> str:
    """The string that a Go literal stands for.

    Raises:
        ValueError: the literal is malformed.
    """
    body = literal[1:-1]
    if literal[0] == "`":
        return body.replace("\r", "")
    if "\\" not in body:
        return body
    return from_bytes(b"".join(_unescaped(body, literal[0])))


def unquote_character(literal: str) -> int:
    """The code point of a Go character literal.

    Raises:
        ValueError: the literal is malformed.
    """
    body = literal[1:-1]
    escape = _ESCAPE.match(body)
    if body[:1] == "\\":
        if not escape or escape["simple"] == '"':
            raise ValueError("invalid syntax")
        code, end = _code(escape), escape.end()
    else:
        if body[:1] in ("", "'"):
            raise ValueError("invalid syntax")
        code, end = ord(body[0]), 1
    if end != len(body):
        raise ValueError(f"malformed character constant: {literal}")
    return code


def _unescaped(body: str, quotation_mark: str) -> list[bytes]:
    parts: list[bytes] = []
    position = 0
    while (backslash := body.find("\\", position)) >= 0:
        escape = _ESCAPE.match(body, backslash)
        if not escape or (escape["simple"] in ("'", '"') and escape["simple"] != quotation_mark):
            raise ValueError("invalid syntax")
        parts += [to_bytes(body[position:backslash]), _bytes_of(escape)]
        position = escape.end()
    return [*parts, to_bytes(body[position:])]


def _bytes_of(escape: re.Match[str]) -> bytes:
    code = _code(escape)
    is_byte = escape["byte"] or escape["octal"]
    return bytes([code]) if is_byte else chr(code).encode()


def _code(escape: re.Match[str]) -> int:
    if simple := escape["simple"]:
        return _SIMPLE_ESCAPES[simple]
    code = int(escape["octal"], 8) if escape["octal"] else int(escape["byte"] or escape["short"] or escape["long"], 16)
    largest = _LARGEST_BYTE if escape["octal"] else _LARGEST_CHARACTER
    if code > largest or code in _SURROGATES:
        raise ValueError("invalid syntax")
    return code


def _quote_character(character: str, quotation_mark: str, ascii_only: bool) -> str:
    code = ord(character)
    if character == quotation_mark:
        return "\\" + character
    if escaped := _QUOTED.get(character):
        return escaped
    if character.isprintable() and (character.isascii() or not ascii_only):
        return character
    if code in _ESCAPED_BYTES:
        return f"\\x{code - 0xDC00:02x}"
    if code < ord(" ") or code == _DELETE:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= _LARGEST_SHORT else f"\\U{code:08x}"
