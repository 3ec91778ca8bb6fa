"""PARAMETER values: text to the type of its option (wire-spec 3.3, 12.1)."""

import math
import re
import struct
from collections.abc import Callable, Iterable
from typing import Any

from mlx_ollama.errors import InvalidRequest
from mlx_ollama.options import KINDS, Kind

DEPRECATED = frozenset(
    {
        *("mirostat", "mirostat_tau", "mirostat_eta", "penalize_newline"),
        *("low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock"),
    }
)
"""Once options; the reference warns of them and goes on without."""

_INTEGER = re.compile(r"[+-]?[0-9]+")
_INTEGERS = range(-(1 << 63), 1 << 63)
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_TRUTHS = {"1": True, "t": True, "T": True, "TRUE": True, "true": True, "True": True}
_FALSEHOODS = {"0": False, "f": False, "F": False, "FALSE": False, "false": False, "False": False}
_BOOLEANS = _TRUTHS | _FALSEHOODS
_DIGITS_OF_FLOAT32 = 10
"""One more than are needed to tell any two apart."""


def typed_parameters(pairs: Iterable[tuple[str, str]], warn: Callable[[str], None]) -> dict[str, Any]:
    """Names and texts as typed parameters; `stop` may come several times, of others the last counts.

    `warn` is told of parameters that no longer exist; they are left out.

    Raises:
        InvalidRequest: for an unknown name or a text that is not of its type, in the reference's words.
    """
    parameters: dict[str, Any] = {}
    for name, text in pairs:
        if name in DEPRECATED:
            warn(f"parameter {name} is deprecated")
        elif name not in KINDS:
            raise InvalidRequest(f"unknown parameter '{name}'")
        elif KINDS[name] is Kind.STRINGS:
            parameters.setdefault(name, []).append(text)
        else:
            parameters[name] = _READERS[KINDS[name]](text)
    return parameters


def _integer(text: str) -> int:
    if _INTEGER.fullmatch(text) and len(text) <= len(str(_INTEGERS.start)) and int(text) in _INTEGERS:
        return int(text)
    raise InvalidRequest(f"invalid int value [{text}]")


def _float(text: str) -> int | float:
    if _FLOAT.fullmatch(text):
        try:
            value = _as_float32(float(text))
        except OverflowError:
            value = math.inf
        if math.isfinite(value):
            return int(value) if value.is_integer() else value
    raise InvalidRequest(f"invalid float value [{text}]")


def _boolean(text: str) -> bool:
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    raise InvalidRequest(f"invalid bool value [{text}]")


_READERS: dict[Kind, Callable[[str], Any]] = {Kind.INTEGER: _integer, Kind.FLOAT: _float, Kind.BOOLEAN: _boolean}


def _as_float32(value: float) -> float:
    """The shortest number that is the same in 32 bits, which is how the reference keeps and shows it."""
    packed = struct.pack("<f", value)
    (exact,) = struct.unpack("<f", packed)
    shorter = (float(f"{exact:.{digits}g}") for digits in range(1, _DIGITS_OF_FLOAT32))
    return next((candidate for candidate in shorter if _packed(candidate) == packed), exact)


def _packed(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return b""
