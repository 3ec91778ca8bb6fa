"""MLX's affine quantisation: groups of codes in a row, each with a scale and a bias; a weight is scale * code + bias.

In NumPy and not by MLX, whose roundings depend on the device: a converted model is the same wherever it was made.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mlx_ollama.worker.halves import Array, Half, narrow, narrow_down, narrow_up, widen

_WORD_BITS = 32


class Codes(NamedTuple):
    """Quantised rows before they are packed: (rows, columns) in uint8, and (rows, groups) in float32."""

    codes: Array
    scales: Array
    biases: Array


class Packed(NamedTuple):
    """Quantised rows as MLX holds them: little-endian words, then scales and biases in half precision."""

    words: Array
    scales: Array
    biases: Array


@dataclass(frozen=True)
class Affine:
    """A form that MLX computes with: `bits` a code, and `group` codes to a scale."""

    bits: int
    group: int

    def shapes(self, rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Of the words, and of the scales and biases."""
        return (rows, columns * self.bits // _WORD_BITS), (rows, columns // self.group)

    def pack(self, quantised: Codes, half: Half) -> Packed:
        """Raises OverflowError if half precision does not hold a scale or a bias."""
        return Packed(
            packed_words(quantised.codes, self.bits), narrow(quantised.scales, half), narrow(quantised.biases, half)
        )

    def quantise(self, values: Array, half: Half) -> Packed:
        """The nearest codes of float32 rows, for scales that just span each group.

        The bias is rounded down and the scale up, so that no weight of a group lies beyond its first or last code.

        Raises:
            OverflowError: if half precision does not hold a scale or a bias.
        """
        groups = values.reshape(len(values), -1, self.group)
        last = 2**self.bits - 1
        biases = narrow_down(groups.min(axis=-1), half)
        low = widen(biases, half)
        scales = narrow_up((groups.max(axis=-1) - low) / last, half)
        steps = widen(scales, half)
        # Where all weights of a group are the bias, the scale is 0, and so is every code.
        inverse = np.divide(1, steps, out=np.zeros_like(steps), where=steps > 0)
        codes = np.rint((groups - low[..., None]) * inverse[..., None])
        return Packed(
            packed_words(np.minimum(codes, last).astype("u1").reshape(values.shape), self.bits), scales, biases
        )


def packed_words(codes: Array, bits: int) -> Array:
    """(rows, columns) of codes as one stream of bits a row, the lowest first, in words of 32."""
    lanes = codes.reshape(len(codes), -1, 8)
    # Eight codes take as many bytes as a code has bits, whatever its width.
    eights = lanes[..., 0].astype("<u8")
    for lane in range(1, 8):
        eights |= lanes[..., lane].astype("<u8") << np.uint64(bits * lane)
    packed = eights[..., None].view("u1")[..., :bits]
    return np.ascontiguousarray(packed).reshape(len(codes), -1).view("<u4")
