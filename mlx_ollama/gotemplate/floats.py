"""Floats in the verbs of `printf`."""

import math
import sys

_DEFAULT_PRECISION = 6
_ZEROS_OF_HEXADECIMAL = 4
_PLAIN_EXPONENTS = range(-4, 6)


def format_float(size: float, verb: str, precision: int | None, *, keeps_zeros: bool) -> str:
    """`size`, which is not negative, without sign; the shortest digits where no precision is given and `verb` is g.

    `keeps_zeros` is the flag `#`: a decimal point always, and for g the trailing zeros.
    """
    if math.isinf(size) or math.isnan(size):
        return "Inf" if math.isinf(size) else "NaN"
    text = _format(size, verb.lower(), precision, keeps_zeros and verb != "X")
    return text.upper() if verb.isupper() else text


def _format(size: float, verb: str, precision: int | None, keeps_zeros: bool) -> str:
    if verb == "x":
        return _hexadecimal(size, precision, _ZEROS_OF_HEXADECIMAL if keeps_zeros else 0)
    if verb == "b":
        return _binary(size)
    if verb == "g" and precision is None and not keeps_zeros:
        return _shortest(size)
    flag = "#" if keeps_zeros else ""
    return f"%{flag}.{_DEFAULT_PRECISION if precision is None else precision}{verb}" % size


def _shortest(size: float) -> str:
    digits, exponent = _digits(size)
    if exponent not in _PLAIN_EXPONENTS:
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{digits[0]}{fraction}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    if exponent < 0:
        return f"0.{'0' * (-exponent - 1)}{digits}"
    whole, fraction = digits[: exponent + 1].ljust(exponent + 1, "0"), digits[exponent + 1 :]
    return f"{whole}.{fraction}" if fraction else whole


def _digits(size: float) -> tuple[str, int]:
    """The shortest digits that read back as `size`, and the power of ten of the first."""
    mantissa, _, exponent = repr(size).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    power = int(exponent or 0) + len(whole) - 1 - (len(whole + fraction) - len(digits))
    return digits.rstrip("0") or "0", power if digits else 0


def _hexadecimal(size: float, precision: int | None, fewest_digits: int) -> str:
    mantissa, exponent = size.hex().split("p")
    whole, _, fraction = mantissa.partition(".")
    if precision is None:
        fraction = fraction.rstrip("0").ljust(fewest_digits, "0")
    else:
        fraction = fraction[:precision].ljust(precision, "0")
    return f"{whole}{f'.{fraction}' if fraction else ''}p{exponent[0]}{exponent[1:].rjust(2, '0')}"


def _binary(size: float) -> str:
    fraction, exponent = math.frexp(size)
    if size == 0:
        return "0p-1074"
    bits = sys.float_info.mant_dig
    return f"{int(math.ldexp(fraction, bits))}p{exponent - bits:+d}"
