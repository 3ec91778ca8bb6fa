"""mlx-lm, imported in two thirds of the time."""

import functools
from importlib import import_module
from typing import Any

_FORGETFUL = "transformers.utils.import_utils"


def import_mlx_lm() -> None:
    """Import mlx-lm and, behind it, transformers, which takes a second; for what imports parts of them afterwards.

    transformers learns what it holds from the text of its 1,600 modules, and does so twice: for itself, and for its
    models. What it has found it remembers in an `lru_cache`, of 128 folders; it has over 500, so that the second time
    reads every file again, for a third of a second. Here it remembers them all.
    """
    as_it_is: Any = functools.lru_cache

    def lru_cache(*arguments: Any, **options: Any) -> Any:
        if arguments and getattr(arguments[0], "__module__", None) == _FORGETFUL:
            return as_it_is(maxsize=None)(arguments[0])
        return as_it_is(*arguments, **options)

    functools.lru_cache = lru_cache
    try:
        import_module("mlx_lm")
    finally:
        functools.lru_cache = as_it_is
