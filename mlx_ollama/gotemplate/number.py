"""Go number literals (wire-spec 12.2)."""

import math
import re

_OCTAL = re.compile(r"0[0-7_]+")
_HEX_FLOAT = re.compile(r"0[xX].*[pP]")
_MISPLACED_UNDERSCORE = re.compile(r"_(?!\d)|(?<!\d)_")
_MISPLACED_HEX_UNDERSCORE = re.compile(r"_(?![0-9a-fA-F])|(?<![0-9a-fA-FxX])_")
_SMALLEST, _LARGEST, _LARGEST_UNSIGNED = -(1 << 63), (1 << 63) - 1, (1 << 64) - 1
_MARKS_OF_A_FLOAT = ".eEpP"


def parse_number(text: str) -> int | float:
    """The value of a number literal; one beyond int64 is only complained of when it is used.

    Raises:
        ValueError: the literal is malformed or too large.
    """
    whole = _whole(text)
    if whole is not None:
        return whole
    fraction = _fraction(text)
    if fraction is None:
        raise ValueError(f'illegal number syntax: "{text}"')
    if not any(mark in text for mark in _MARKS_OF_A_FLOAT):
        raise ValueError(f'integer overflow: "{text}"')
    return fraction


def _whole(text: str) -> int | None:
    digits = text.lstrip("+-")
    try:
        size = int(digits, 8 if _OCTAL.fullmatch(digits) else 0)
    except ValueError:
        return None
    value = -size if text.startswith("-") else size
    largest = _LARGEST if text[0] in "+-" else _LARGEST_UNSIGNED
    return value if _SMALLEST <= value <= largest else None


def _fraction(text: str) -> float | None:
    is_hexadecimal = _HEX_FLOAT.search(text)
    if (_MISPLACED_HEX_UNDERSCORE if is_hexadecimal else _MISPLACED_UNDERSCORE).search(text):
        return None
    plain = text.replace("_", "")
    try:
        value = float.fromhex(plain) if is_hexadecimal else float(plain)
    except (ValueError, OverflowError):
        return None
    return None if math.isinf(value) else value
