"""Which errors mean that memory has run out."""

import re

_ALLOCATION = re.compile(r"alloc|out of memory|insufficient memory", re.IGNORECASE)
"""How MLX, CUDA and Metal name it: `[malloc] Unable to allocate`, `out of memory`, `Insufficient Memory`."""


def is_shortage(error: BaseException) -> bool:
    """Whether an error, or what caused it, is an allocation that did not succeed: by its type, or by its words."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or (isinstance(cause, RuntimeError) and _ALLOCATION.search(str(cause))):
            return True
        cause = cause.__cause__
    return False
