"""How single values of settings are read and shown."""

import math
import os
import shlex
from pathlib import Path
from typing import Any

from mlx_ollama.durations import parse_duration


class Words(tuple[str, ...]):
    """A command and its arguments; in the environment written as a shell would have it, and never given to one."""

    __slots__ = ()


class Percent(float):
    """A share of memory: a setting that is no duration, though it is a decimal number."""


def truth(value: Any) -> bool:
    """A switch in one of its words.

    Raises:
        ValueError: if it is none.
    """
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    found = words.get(str(value).lower())
    if found is None:
        raise ValueError("neither true nor false")
    return found


def seconds_of(value: Any) -> float:
    """A duration as a number or as `5m`.

    Raises:
        ValueError: if it is none, or not finite.
    """
    try:
        seconds = float(value)
    except ValueError:
        return parse_duration(value)
    if not math.isfinite(seconds):
        raise ValueError("not a finite number")
    return seconds


def as_type_of(default: Any, value: Any) -> Any:
    """`value`, from the environment, the file or a flag, as what `default` is.

    Raises:
        ValueError: if it is none.
        OverflowError: if it is a number that is too large to be one.
    """
    if isinstance(default, bool):
        return truth(value)
    if isinstance(value, bool):
        raise ValueError("not true or false")  # noqa: TRY004 - one error for every bad value
    if isinstance(default, tuple):
        return _list_of(type(default), value)
    if isinstance(default, int | float):
        return _number_like(default, value)
    # A setting that is a path is one from a program, too.
    if not isinstance(value, str | os.PathLike):
        raise ValueError("not a string")  # noqa: TRY004 - as above
    return Path(value) if isinstance(default, Path) else str(value)


def _number_like(default: float, value: Any) -> float:
    if not isinstance(value, str | int | float):
        raise ValueError("not a number")  # noqa: TRY004 - as above
    if isinstance(default, int):
        if isinstance(value, float) and not value.is_integer():
            raise ValueError("not a whole number")
        return int(value)
    return Percent(value) if isinstance(default, Percent) else seconds_of(value)


def _list_of(kind: type[tuple[str, ...]], value: Any) -> tuple[str, ...]:
    words = issubclass(kind, Words)
    split = shlex.split if words else lambda text: text.split(",")
    parts = split(value) if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError("not a list of strings")
    return Words(parts) if words else tuple(part.strip() for part in parts if part.strip())


def show(value: Any) -> str:
    """A value as one would write it into the environment."""
    if isinstance(value, Words):
        return shlex.join(value)
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
