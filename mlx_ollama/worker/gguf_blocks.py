"""The blocks of a quantised GGUF tensor as rows of an affine form of MLX.

Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K and Q5_K are affine already, in groups of 32: each code stays what it is, and only
the scales and biases may be rounded to half precision. The rest has scales for 16 weights, or steps of unequal length,
and is quantised once more, to the form with the shortest steps that takes at most 1.27 times the bits: together with
what a directory holds beside its weights that stays below 1.3. The rounding this adds is smaller than the one the
weights have been through.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from gguf import dequantize

from mlx_ollama.worker.affine import Affine, Codes, Packed
from mlx_ollama.worker.gguf_file import GgufTensor
from mlx_ollama.worker.halves import Array, Half

DENSE = ("F32", "F16", "BF16")
_GROUP = 32

_Q4_0 = np.dtype([("d", "<f2"), ("q", "u1", 16)])
_Q4_1 = np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)])
_Q5_0 = np.dtype([("d", "<f2"), ("h", "u1", 4), ("q", "u1", 16)])
_Q5_1 = np.dtype([("d", "<f2"), ("m", "<f2"), ("h", "u1", 4), ("q", "u1", 16)])
_Q8_0 = np.dtype([("d", "<f2"), ("q", "u1", 32)])
_Q4_K = np.dtype([("d", "<f2"), ("m", "<f2"), ("s", "u1", 12), ("q", "u1", (4, 32))])
_Q5_K = np.dtype([("d", "<f2"), ("m", "<f2"), ("s", "u1", 12), ("h", "u1", 32), ("q", "u1", (4, 32))])


@dataclass(frozen=True)
class Blocks:
    """A form for a type of tensor; `decode` reads it exactly, None: its weights are quantised once more."""

    form: Affine
    decode: Callable[[Array], Codes] | None = None

    def pack(self, data: Array, tensor: GgufTensor, half: Half) -> Packed:
        """Rows of the tensor's blocks in the form. Raises OverflowError if half precision does not hold a scale."""
        if self.decode is not None:
            return self.form.pack(self.decode(data), half)
        return self.form.quantise(dequantize(data, tensor.kind), half)


def blocks_of(tensor: GgufTensor) -> Blocks | None:
    """How the rows of a tensor become quantised; None for one that is dense, or of a type that is not supported."""
    columns = tensor.shape[0]
    fitting = (blocks for blocks in _BLOCKS.get(tensor.type, ()) if columns % blocks.form.group == 0)
    return next(fitting, None)


def _q4_0(data: Array) -> Codes:
    """A weight is d * (q - 8)."""
    blocks = data.view(_Q4_0)
    return _centred(_nibbles(blocks["q"]), blocks["d"], 8)


def _q4_1(data: Array) -> Codes:
    """A weight is d * q + m."""
    blocks = data.view(_Q4_1)
    return _codes(_nibbles(blocks["q"]), blocks["d"], blocks["m"])


def _q5_0(data: Array) -> Codes:
    """A weight is d * (q - 16)."""
    blocks = data.view(_Q5_0)
    return _centred(_nibbles(blocks["q"]) | _fifth_bits(blocks["h"]), blocks["d"], 16)


def _q5_1(data: Array) -> Codes:
    """A weight is d * q + m."""
    blocks = data.view(_Q5_1)
    return _codes(_nibbles(blocks["q"]) | _fifth_bits(blocks["h"]), blocks["d"], blocks["m"])


def _q8_0(data: Array) -> Codes:
    """A weight is d * q with q signed; flipping its upper bit adds 128 to it."""
    blocks = data.view(_Q8_0)
    return _centred(blocks["q"] ^ 0x80, blocks["d"], 128)


def _q4_k(data: Array) -> Codes:
    """Eight groups share d and m, and have a scale s and a minimum t of six bits each: a weight is d * s * q - m * t.

    Two groups share the halves of 32 bytes, the first has the lower ones.
    """
    blocks = data.view(_Q4_K)
    return _codes(_halves(blocks["q"]), *_six_bits(blocks))


def _q5_k(data: Array) -> Codes:
    """As Q4_K, with one more bit of each code: byte j holds those of the weights j of all eight groups."""
    blocks = data.view(_Q5_K)
    fifth = (blocks["h"][..., None, :] >> np.arange(8, dtype="u1")[:, None] & 1) << 4
    return _codes(_halves(blocks["q"]) | fifth, *_six_bits(blocks))


def _codes(codes: Array, scales: Array, biases: Array) -> Codes:
    rows = len(codes)
    return Codes(codes.reshape(rows, -1), *(each.astype("<f4").reshape(rows, -1) for each in (scales, biases)))


def _centred(codes: Array, scales: Array, middle: int) -> Codes:
    wide = scales.astype("<f4")
    return _codes(codes, wide, wide * -middle)


def _nibbles(packed: Array) -> Array:
    """(…, 16) bytes as 32 codes: byte j holds the codes j and j + 16, the lower half first."""
    return np.concatenate([packed & 0x0F, packed >> 4], axis=-1)


def _halves(packed: Array) -> Array:
    """(…, 4, 32) bytes as eight groups of 32 codes, the lower halves of each 32 bytes before the upper ones."""
    pairs = np.stack([packed & 0x0F, packed >> 4], axis=-2)
    return pairs.reshape(*packed.shape[:-2], 8, _GROUP)


def _fifth_bits(packed: Array) -> Array:
    """(…, 4) bytes with a bit for each of 32 codes, the lowest first, each in its place."""
    return np.unpackbits(packed, axis=-1, bitorder="little") << 4


def _six_bits(blocks: Array) -> tuple[Array, Array]:
    """Scale and bias of each of the eight groups.

    The first four bytes hold the first four scales and the next four their minima, six bits each; the last four hold
    the lower halves of the others, of which the two upper bits are those left over in the first eight bytes.
    """
    first, second, third = np.split(blocks["s"], 3, axis=-1)
    scales = np.concatenate([first & 0x3F, (third & 0x0F) | (first >> 6 << 4)], axis=-1)
    minima = np.concatenate([second & 0x3F, (third >> 4) | (second >> 6 << 4)], axis=-1)
    return _times(blocks["d"], scales), -_times(blocks["m"], minima)


def _times(constants: Array, factors: Array) -> Array:
    product: Array = constants.astype("<f4")[..., None] * factors
    return product


_BLOCKS = {
    "Q4_0": (Blocks(Affine(4, _GROUP), _q4_0),),
    "Q4_1": (Blocks(Affine(4, _GROUP), _q4_1),),
    "Q5_0": (Blocks(Affine(5, _GROUP), _q5_0),),
    "Q5_1": (Blocks(Affine(5, _GROUP), _q5_1),),
    "Q8_0": (Blocks(Affine(8, _GROUP), _q8_0),),
    "Q4_K": (Blocks(Affine(4, _GROUP), _q4_k),),
    "Q5_K": (Blocks(Affine(5, _GROUP), _q5_k),),
    # In the order of preference, for MLX needs whole groups in a row.
    "Q6_K": (Blocks(Affine(8, 128)),),
    "Q3_K": (Blocks(Affine(4, 128)),),
    "Q2_K": (Blocks(Affine(3, 128)),),
    "IQ4_XS": (Blocks(Affine(5, 128)),),
    "IQ4_NL": (Blocks(Affine(5, 64)), Blocks(Affine(4, _GROUP))),
}
