"""The `options` of a request: which exist, of what type, with what default (wire-spec 3.3)."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mlx_ollama.errors import InvalidOption


class Kind(Enum):
    """The type of an option, by the word that the reference's complaints use."""

    INTEGER = "integer"
    FLOAT = "float32"
    BOOLEAN = "boolean"
    STRINGS = "array"


KINDS: Mapping[str, Kind] = {
    "num_ctx": Kind.INTEGER,
    "num_keep": Kind.INTEGER,
    "num_predict": Kind.INTEGER,
    "num_batch": Kind.INTEGER,
    "num_gpu": Kind.INTEGER,
    "main_gpu": Kind.INTEGER,
    "num_thread": Kind.INTEGER,
    "draft_num_predict": Kind.INTEGER,
    "use_mmap": Kind.BOOLEAN,
    "seed": Kind.INTEGER,
    "stop": Kind.STRINGS,
    "temperature": Kind.FLOAT,
    "top_k": Kind.INTEGER,
    "top_p": Kind.FLOAT,
    "min_p": Kind.FLOAT,
    "typical_p": Kind.FLOAT,
    "repeat_last_n": Kind.INTEGER,
    "repeat_penalty": Kind.FLOAT,
    "presence_penalty": Kind.FLOAT,
    "frequency_penalty": Kind.FLOAT,
}
"""Every option that the reference knows. Those without a field in `Options` tune an engine that is not ours: they are
checked, and then have nothing to act on (`without_effect`)."""


_LARGEST = (1 << 63) - 1


@dataclass(frozen=True)
class Options:
    """What generation needs, with the reference's defaults.

    `num_ctx`, `num_keep`, `num_predict`, `repeat_last_n` and `top_k` count tokens; `num_ctx` None means the server's
    default, `num_predict` below 1 means until the context is full, `seed` below 0 means a random one.
    """

    num_ctx: int | None = None
    num_keep: int = 4
    num_predict: int = -1
    seed: int = -1
    stop: tuple[str, ...] = ()
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @classmethod
    def merge(cls, *layers: Mapping[str, Any]) -> "Options":
        """Later layers win: Modelfile PARAMETERs first, then the request's options.

        Raises:
            InvalidOption: for a value of the wrong type, in the reference's words.
        """
        merged: dict[str, Any] = {}
        for name, value in _entries(layers):
            if name in KINDS and value is not None:
                checked = _checked(name, value)
                if name in cls.__dataclass_fields__:
                    merged[name] = checked
        return cls(**merged)


def without_effect(options: Mapping[str, Any]) -> list[str]:
    """The names in a request's options that this server accepts, as the reference does, and cannot honour."""
    return [name for name, value in options.items() if name not in Options.__dataclass_fields__ and value is not None]


def _entries(layers: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, Any]]:
    for layer in layers:
        yield from layer.items()


def _checked(name: str, value: Any) -> Any:
    match KINDS[name]:
        case Kind.INTEGER if _is_number(value):
            return int(max(-_LARGEST, min(_LARGEST, value)))
        case Kind.FLOAT if _is_number(value) and math.isfinite(value):
            return float(value)
        case Kind.BOOLEAN if isinstance(value, bool):
            return value
        case Kind.STRINGS if isinstance(value, list | tuple):
            if not all(isinstance(element, str) for element in value):
                raise InvalidOption(f'option "{name}" must be of an array of strings')
            return tuple(element for element in value if element)
    raise InvalidOption(f'option "{name}" must be of type {KINDS[name].value}')


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
