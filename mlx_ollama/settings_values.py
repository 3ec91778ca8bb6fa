"""How single values of settings are read."""

import math
from typing import Any

from mlx_ollama.durations import parse_duration


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
