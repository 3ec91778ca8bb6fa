"""Rows of GGUF blocks: as the `gguf` package writes them where it can, written here where it can only read them."""

from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

Array = npt.NDArray[Any]

# Where a block has its constants in half precision.
_CONSTANTS = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
}
# How many weights share a scale, and how many values one of them can take: that is what rounded them.
_LATTICES = {"Q2_K": (16, 4), "Q3_K": (16, 8), "Q6_K": (16, 64), "IQ4_NL": (32, 16), "IQ4_XS": (32, 16)}


def random_rows(kind: str, rows: int, columns: int) -> Array:
    """Blocks with every value of the packed integers, and with constants of both signs."""
    random = np.random.default_rng(3)
    block, size = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    data = random.integers(0, 256, (rows, columns // block, size), dtype=np.uint8)
    for offset in _CONSTANTS[kind]:
        values = random.normal(0, 0.01, data.shape[:2]).astype("<f2")
        data[..., offset : offset + 2] = values[..., None].view(np.uint8)
    return data.reshape(rows, -1)


def rows_of(kind: str, values: Array) -> Array:
    """float32 rows in blocks."""
    if kind in _WRITERS:
        blocks = values.reshape(-1, gguf.GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0])
        return _WRITERS[kind](blocks).reshape(len(values), -1)
    return np.asarray(gguf.quantize(values, GGMLQuantizationType[kind]))


def dequantised(kind: str, data: Array) -> Array:
    return np.asarray(gguf.dequantize(data, GGMLQuantizationType[kind]))


def rounding(kind: str, values: Array) -> Array:
    """How far each weight may have been from its value before it was quantised: half a step of its own lattice."""
    group, levels = _LATTICES[kind]
    groups = values.reshape(len(values), -1, group)
    steps = (groups.max(-1) - groups.min(-1)) / (levels - 1)
    return np.repeat(steps / 2, group, axis=-1).reshape(values.shape)


def _k_groups(blocks: Array, last: int) -> tuple[Array, Array]:
    """Codes up to `last` in eight groups of 32, and the constants, scales and minima of six bits before them."""
    groups = blocks.reshape(-1, 8, 32)
    minima = np.maximum(-groups.min(-1), 0)
    scales = (groups.max(-1) + minima) / last
    d, m = (_half(np.maximum(each.max(-1, keepdims=True) / 63, 1e-8)) for each in (scales, minima))
    s, t = (np.rint(each / constant).astype("u1") for each, constant in ((scales, d), (minima, m)))
    steps = np.maximum(d * s, 1e-12)[..., None]
    codes = np.clip(np.rint((groups + (m * t)[..., None]) / steps), 0, last).astype("u1")
    first, second = s[:, :4] | s[:, 4:] >> 4 << 6, t[:, :4] | t[:, 4:] >> 4 << 6
    third = (s[:, 4:] & 15) | t[:, 4:] << 4
    return codes, np.concatenate([_bytes(d), _bytes(m), first, second, third], axis=-1)


def _q4_k(blocks: Array) -> Array:
    codes, constants = _k_groups(blocks, 15)
    return np.concatenate([constants, _pairs(codes).reshape(len(blocks), -1)], axis=-1)


def _q5_k(blocks: Array) -> Array:
    codes, constants = _k_groups(blocks, 31)
    fifth = np.packbits(codes >> 4, axis=1, bitorder="little").reshape(len(blocks), -1)
    return np.concatenate([constants, fifth, _pairs(codes & 15).reshape(len(blocks), -1)], axis=-1)


def _q6_k(blocks: Array) -> Array:
    """Of 128 codes the first and third 32, and the second and fourth, share a byte; the upper bits of four one more."""
    groups = blocks.reshape(-1, 16, 16)
    scales = np.abs(groups).max(-1) / 31
    d = _half(np.maximum(scales.max(-1, keepdims=True) / 127, 1e-8))
    s = np.rint(scales / d).astype("i1")
    codes = np.clip(np.rint(groups / np.maximum(d * s, 1e-12)[..., None]), -32, 31) + 32
    quarters = codes.astype("u1").reshape(-1, 2, 4, 32)
    low = quarters[:, :, :2] & 15 | quarters[:, :, 2:] << 4
    high = np.bitwise_or.reduce(quarters >> 4 << np.arange(0, 8, 2, dtype="u1")[:, None], axis=2)
    parts = [low.reshape(len(blocks), -1), high.reshape(len(blocks), -1), s.view("u1"), _bytes(d)]
    return np.concatenate(parts, axis=-1)


def _iq4_nl(blocks: Array) -> Array:
    """Sixteen values of uneven distance, of which the first is the largest, and negative."""
    extremes = np.take_along_axis(blocks, np.abs(blocks).argmax(-1, keepdims=True), axis=-1)
    d = _half(extremes / _UNEVEN[0])
    codes = np.abs(blocks[..., None] / np.where(d == 0, 1, d)[..., None] - _UNEVEN).argmin(-1).astype("u1")
    return np.concatenate([_bytes(d), codes[:, :16] | codes[:, 16:] << 4], axis=-1)


def _pairs(codes: Array) -> Array:
    """Two groups of 32 in the halves of 32 bytes."""
    pairs: Array = codes[:, 0::2] | codes[:, 1::2] << 4
    return pairs


def _half(values: Array) -> Array:
    return values.astype("<f2").astype("<f4")


def _bytes(constants: Array) -> Array:
    return constants.astype("<f2").view("u1")


_UNEVEN = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], "<f4")
_WRITERS: dict[str, Callable[[Array], Array]] = {"Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k, "IQ4_NL": _iq4_nl}
