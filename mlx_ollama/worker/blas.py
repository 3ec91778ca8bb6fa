"""A fast BLAS for MLX's CPU backend."""

import ctypes
import os
import sys


def preload_openblas() -> bool:
    """Load OpenBLAS for the whole process; call it before the first import of mlx.

    MLX on Linux is linked against the reference BLAS, which is some 16 times slower in a float32 matrix product.
    Symbols that are already global win over it. Debian's package is `libopenblas0-pthread`.

    Returns whether OpenBLAS is there. Without it everything still works, slower.
    """
    if sys.platform != "linux":
        return False
    try:
        ctypes.CDLL("libopenblas.so.0", mode=os.RTLD_GLOBAL)
    except OSError:
        return False
    return True
