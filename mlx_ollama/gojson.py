"""JSON the way Go's `encoding/json` reads and writes it (wire-spec 0.3, 0.5).

Writing differs from orjson in two things that clients can see: `<`, `>`, `&` and the two Unicode line separators are
escaped, and whole floats lose their fraction (`1`, not `1.0`). Reading differs from `json` in what it forgives (what
follows the first value, invalid UTF-8, lone surrogates) and in the words of its complaints.
"""

import json
import re
from collections.abc import Iterator, Sequence
from json import JSONDecoder
from math import isinf
from typing import Any, NoReturn, Self

import orjson

_ESCAPES = ((b"&", b"\\u0026"), (b"<", b"\\u003c"), (b">", b"\\u003e"), (b"\xe2\x80\xa8", b"\\u2028"))
_LAST_ESCAPE = (b"\xe2\x80\xa9", b"\\u2029")
_LONGEST_INT64 = 19
_SMALLEST_PLAIN, _SMALLEST_SCIENTIFIC = 1e-6, 1e21
_UNLIKE_GO = re.compile(rb"(?<=[,\[])-?(?:\d+\.0(?=[,\]])|[\d.]+e[^,\]]+|0\.0000[^,\]]+)")
"""Numbers that Go may write in another way: whole ones and those with an exponent."""

MOST_CONTAINERS = 1 << 19
"""Objects and arrays in one text: reading more holds the interpreter's lock for longer than others may wait."""

MOST_MEMBERS = 1 << 22
"""Values in one text, which take a hundred bytes each."""

DEEPEST = 200
"""Objects and arrays in each other; Go reads 10000. orjson writes 254, and answers and frames put some around them."""

_TOO_DEEP = "exceeded max depth"
_SPACE = " \t\r\n"
_GO_CONTROLS = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\v": "\\v"}


class GoSyntaxError(ValueError):
    """The text is no JSON that can be read here; the message is Go's."""


class Float(float):
    """A number with a fraction or an exponent, which remembers how it was written (Go's type errors quote it)."""

    raw: str

    def __new__(cls, raw: str) -> Self:
        value = super().__new__(cls, raw)
        value.raw = raw
        return value


class Written(Sequence[float]):
    """Numbers kept as the JSON array that they will be: a third of what floats take, and nothing is left to write."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __len__(self) -> int:
        return len(self._numbers())

    def __getitem__(self, at: Any) -> Any:
        return self._numbers()[at]

    def __iter__(self) -> Iterator[float]:
        return iter(self._numbers())

    def _numbers(self) -> list[float]:
        # Not by a JSON reader, to which `-0` is an integer.
        return [float(number) for number in self.text.strip("[]").split(",") if number]


def dumps(value: object) -> bytes:
    """`value` as compact JSON with Go's escapes; keys stay in the order given.

    Raises:
        TypeError: for values that JSON does not have.
    """
    written = orjson.dumps(_with_go_floats(value), option=orjson.OPT_NON_STR_KEYS)
    for plain, escaped in (*_ESCAPES, _LAST_ESCAPE):
        if plain in written:
            written = written.replace(plain, escaped)
    return written


def floats(numbers: Sequence[float]) -> bytes:
    """A JSON array of floats: quicker than `dumps` for long ones."""
    return numbers.text.encode() if isinstance(numbers, Written) else like_go(orjson.dumps(numbers))


def like_go(array: bytes) -> bytes:
    """A JSON array of floats by orjson, which writes most of them as Go does."""
    return _UNLIKE_GO.sub(lambda found: format_float(float(found[0])).encode(), array)


def format_float(value: float) -> str:
    """The shortest form of a float, without exponent from 1e-6 up to 1e21 (Go's `floatEncoder`)."""
    size = abs(value)
    shortest = repr(float(value))
    if size == 0:
        return "-0" if shortest.startswith("-") else "0"
    if _SMALLEST_PLAIN <= size < _SMALLEST_SCIENTIFIC:
        return _without_exponent(shortest)
    return _with_exponent(shortest)


def in_key_order(value: object) -> object:
    """The same with the keys of every object sorted, as Go writes its maps."""
    if isinstance(value, dict):
        return {key: in_key_order(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [in_key_order(member) for member in value]
    return value


def loads(body: bytes) -> Any:
    """The first JSON value of `body`; what follows it is ignored, as gin's decoder does. `dumps` can write it again.

    Raises:
        GoSyntaxError: with Go's message, `EOF` for a body that is empty or only space; or for more objects, arrays or
            values than are read here. Brackets and commas in strings count, too: no model has context for so many.
    """
    containers = body.count(b"[") + body.count(b"{")
    if containers > MOST_CONTAINERS or body.count(b",") > MOST_MEMBERS:
        raise GoSyntaxError(f"over {MOST_CONTAINERS} brackets, or over {MOST_MEMBERS} commas")
    text = body.decode("utf-8", "replace")
    start = len(text) - len(text.lstrip(_SPACE))
    if start == len(text):
        raise GoSyntaxError("EOF")
    try:
        value, _ = _DECODER.raw_decode(text, start)
    except RecursionError as error:
        raise GoSyntaxError(_TOO_DEEP) from error
    except ValueError as error:
        _complain(text, start, error)
    if containers > DEEPEST and _is_too_deep(value):
        raise GoSyntaxError(_TOO_DEEP)
    return _without_lone_surrogates(value) if "\\u" in text else value


def kind(value: object) -> str:
    """The name that Go's type errors give to a JSON value."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, list):
        return "array"
    if isinstance(value, dict):
        return "object"
    return "number"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _float(number: str) -> Float:
    value = Float(number)
    if isinf(value):
        raise GoSyntaxError(f"json: cannot unmarshal number {number} into Go value of type float64")
    return value


def _integer(digits: str) -> int | Float:
    return int(digits) if len(digits) < _LONGEST_INT64 else _float(digits)


def _is_too_deep(value: object) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        members = (member for one in level for member in (one.values() if isinstance(one, dict) else one))
        level = [member for member in members if isinstance(member, dict | list)]
        if not level:
            return False
    return True


_DECODER = JSONDecoder(parse_float=_float, parse_int=_integer, parse_constant=_refuse_constant)


def _with_go_floats(value: object) -> object:
    if isinstance(value, str | int) or value is None:
        return value
    if isinstance(value, float):
        return orjson.Fragment(format_float(value))
    if isinstance(value, dict):
        return {key: _with_go_floats(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_with_go_floats(member) for member in value]
    return value


def _without_exponent(shortest: str) -> str:
    if "e" not in shortest:
        return shortest.removesuffix(".0")
    sign = "-" if shortest.startswith("-") else ""
    mantissa, exponent = shortest.lstrip("-").split("e")
    whole, _, fraction = mantissa.partition(".")
    point = len(whole) + int(exponent)
    digits = whole + fraction
    if point <= 0:
        return f"{sign}0.{'0' * -point}{digits}".rstrip("0")
    return sign + digits.ljust(point, "0")


def _with_exponent(shortest: str) -> str:
    if "e" not in shortest:
        shortest = f"{float(shortest):e}"
        mantissa, exponent = shortest.split("e")
        shortest = f"{mantissa.rstrip('0').rstrip('.')}e{exponent}"
    mantissa, exponent = shortest.split("e")
    sign, digits = ("-" if exponent.startswith("-") else "+"), exponent.lstrip("+-")
    return f"{mantissa}e{sign}{digits.lstrip('0') if sign == '-' else digits.rjust(2, '0')}"


def _without_lone_surrogates(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_lone_surrogates(member) for member in value]
    if isinstance(value, dict):
        return {str(_without_lone_surrogates(key)): _without_lone_surrogates(member) for key, member in value.items()}
    return value


def _complain(text: str, start: int, cause: Exception) -> NoReturn:
    """Say what Go would say of a text that Python could not read either."""
    try:
        _Scanner(text, start).value()
    except GoSyntaxError as error:
        raise error from cause
    except RecursionError as error:
        raise GoSyntaxError(_TOO_DEEP) from error
    raise GoSyntaxError(str(cause)) from cause


class _Scanner:
    """Walks over a broken text only to find the first character that Go would trip on."""

    _NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
    _PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
    _LITERALS = ("true", "false", "null")

    def __init__(self, text: str, position: int) -> None:
        self.text, self.position = text, position

    def value(self) -> None:
        first = self._next_character()
        if first == "{":
            self._object()
        elif first == "[":
            self._array()
        elif first == '"':
            self._string()
        elif first == "-" or first.isdigit():
            self._number()
        else:
            self._literal(first)

    def _object(self) -> None:
        self.position += 1
        if self._next_character() == "}":
            self.position += 1
            return
        while True:
            if self._next_character() != '"':
                self._trip("looking for beginning of object key string")
            self._string()
            if self._next_character() != ":":
                self._trip("after object key")
            self.position += 1
            self.value()
            if self._next_character() == "}":
                self.position += 1
                return
            if self._next_character() != ",":
                self._trip("after object key:value pair")
            self.position += 1

    def _array(self) -> None:
        self.position += 1
        if self._next_character() == "]":
            self.position += 1
            return
        while True:
            self.value()
            if self._next_character() == "]":
                self.position += 1
                return
            if self._next_character() != ",":
                self._trip("after array element")
            self.position += 1

    def _string(self) -> None:
        self.position += 1
        while (character := self._skip(self._PLAIN)) != '"':
            if character == "\\":
                self._escape()
            elif character < " ":
                self._trip("in string literal")
            else:
                self.position += 1
        self.position += 1

    def _skip(self, pattern: re.Pattern[str]) -> str:
        """Step over what matches at once, however long it is; the character after it."""
        if found := pattern.match(self.text, self.position):
            self.position = found.end()
        return self._here()

    def _escape(self) -> None:
        self.position += 1
        if self._here() != "u":
            if self._here() not in 'bfnrt\\/"':
                self._trip("in string escape code")
            self.position += 1
            return
        for _ in range(4):
            self.position += 1
            if self._here() not in "0123456789abcdefABCDEF":
                self._trip("in \\u hexadecimal character escape")
        self.position += 1

    def _number(self) -> None:
        found = self._NUMBER.match(self.text, self.position)
        if found is None:
            self.position += 1
            self._here()
            self._trip("in numeric literal")
        self.position = found.end()
        rest = self.text[self.position : self.position + 1]
        if rest and rest in ".eE":
            where = "after decimal point in numeric literal" if rest == "." else "in exponent of numeric literal"
            self.position += 1
            if rest in "eE" and self._here() in "+-":
                self.position += 1
            self._here()
            self._trip(where)

    def _literal(self, first: str) -> None:
        for literal in self._LITERALS:
            if literal[0] != first:
                continue
            for expected in literal:
                if self._here() != expected:
                    self._trip(f"in literal {literal} (expecting {_quoted(expected)})")
                self.position += 1
            return
        self._trip("looking for beginning of value")

    def _next_character(self) -> str:
        while self._here() in _SPACE:
            self.position += 1
        return self._here()

    def _here(self) -> str:
        if self.position >= len(self.text):
            raise GoSyntaxError("unexpected EOF")
        return self.text[self.position]

    def _trip(self, where: str) -> NoReturn:
        raise GoSyntaxError(f"invalid character {_quoted(self.text[self.position])} {where}")


def _quoted(character: str) -> str:
    if character == "'":
        return "'\\''"
    if character == '"':
        return "'\"'"
    if character < " " or character == "\x7f":
        return "'" + _GO_CONTROLS.get(character, f"\\x{ord(character):02x}") + "'"
    return f"'{json.dumps(character, ensure_ascii=not character.isprintable())[1:-1]}'"
