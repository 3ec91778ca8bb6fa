"""JSON as models write it."""

import json
from typing import Any, NoReturn

_LONGEST_INT64 = 19


def json_value(text: str) -> Any:
    """The value that `text` is; bare line breaks in strings are forgiven, and large integers become floats.

    Raises:
        ValueError: if it is none, or nested too deeply to be read.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < _LONGEST_INT64 else float(digits)


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)


_DECODER = json.JSONDecoder(strict=False, parse_int=_integer, parse_constant=_refuse)
