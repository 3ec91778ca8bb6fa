"""Half precision in NumPy: F16 and BF16 as their bits in uint16, since NumPy has no BF16."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Half = Literal["F16", "BF16"]

_EXPONENT = {"F16": 0x7C00, "BF16": 0x7F80}
_SIGN = 0x8000
_HALFWAY = 0x8000


def narrow(values: Array, half: Half) -> Array:
    """The nearest of float32 numbers.

    Raises:
        OverflowError: if one of them is not finite, or too large.
    """
    return _finite(_nearest(values, half), half)


def narrow_up(values: Array, half: Half) -> Array:
    """The least that is not below a number; the numbers are not negative. Raises OverflowError as `narrow` does."""
    bits = _nearest(values, half)
    return _finite(bits + (widen(bits, half) < values), half)


def narrow_down(values: Array, half: Half) -> Array:
    """The greatest that is not above a number. Raises OverflowError as `narrow` does."""
    bits = _nearest(values, half)
    towards = np.where(bits & _SIGN, bits + np.uint16(1), bits - np.uint16(1))
    return _finite(np.where(widen(bits, half) > values, towards, bits), half)


def widen(bits: Array, half: Half) -> Array:
    """Exact, to float32."""
    if half == "F16":
        return bits.view("<f2").astype("<f4")
    return (bits.astype("<u4") << 16).view("<f4")


def _nearest(values: Array, half: Half) -> Array:
    if half == "F16":
        with np.errstate(over="ignore"):
            return values.astype("<f2").view("<u2")
    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    # To the nearest, and to the even one of two: a half carries over if the last bit that stays is set.
    rounded: Array = (bits >> 16).astype("<u2") + ((bits & 0xFFFF) + (bits >> 16 & 1) > _HALFWAY)
    return rounded


def _finite(bits: Array, half: Half) -> Array:
    exponent = np.uint16(_EXPONENT[half])
    if ((bits & exponent) == exponent).any():
        raise OverflowError(f"a number is too large for {half}")
    return bits.astype("<u2", copy=False)
