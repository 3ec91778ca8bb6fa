"""Every quantisation in MLX's forms: what is affine keeps its codes, the rest errs less than it already does."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_ollama.worker.affine import Affine, packed_words
from mlx_ollama.worker.gguf_blocks import blocks_of
from mlx_ollama.worker.gguf_file import GgufTensor
from mlx_ollama.worker.halves import Half, narrow, narrow_down, narrow_up, widen
from tests.worker.quantised import Array, dequantised, random_rows, rounding

HALVES: tuple[Half, ...] = ("F16", "BF16")
AS_THEY_ARE = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
WITH_ROUNDED_SCALES = ("Q4_K", "Q5_K")
ONCE_MORE = ("Q6_K", "IQ4_NL", "IQ4_XS", "Q3_K", "Q2_K")


def tensor(kind: str, data: Array, columns: int) -> GgufTensor:
    return GgufTensor("t", kind, (columns, len(data)), data.nbytes, lambda: data)


def stored(kind: str, data: Array, columns: int, half: Half) -> tuple[Array, int]:
    """The weights as MLX computes with them on a CPU, and the bytes they take."""
    source = tensor(kind, data, columns)
    blocks = blocks_of(source)
    assert blocks is not None
    packed = blocks.pack(data, source, half)
    scales, biases = (mx.array(widen(each, half)) for each in (packed.scales, packed.biases))
    form = blocks.form
    assert (packed.words.shape, packed.scales.shape) == form.shapes(len(data), columns)
    values = mx.dequantize(mx.array(packed.words), scales, biases, group_size=form.group, bits=form.bits, stream=mx.cpu)
    return np.array(values), sum(each.nbytes for each in packed)


@pytest.mark.parametrize("kind", AS_THEY_ARE)
def test_affine_blocks_keep_their_values_to_the_last_bit(kind: str) -> None:
    data = random_rows(kind, 16, 96)
    ours, nbytes = stored(kind, data, 96, "F16")
    assert np.array_equal(ours, dequantised(kind, data))
    assert nbytes <= 1.12 * data.nbytes


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("kind", [*AS_THEY_ARE, *WITH_ROUNDED_SCALES])
def test_only_scales_are_rounded(kind: str, half: Half) -> None:
    data = random_rows(kind, 16, 512)
    ours, nbytes = stored(kind, data, 512, half)
    theirs = dequantised(kind, data)
    # A scale and a bias, each off by half a unit in its last place, and each no larger than the sum of a group's ends.
    unit = {"F16": 2**-11, "BF16": 2**-8}[half]
    groups = np.abs(theirs).reshape(16, -1, 32).max(-1)
    assert (np.abs(ours - theirs).reshape(16, -1, 32).max(-1) <= 4 * unit * groups).all()
    assert nbytes <= 1.12 * data.nbytes


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("kind", ONCE_MORE)
def test_what_is_quantised_once_more_errs_less_than_it_did(kind: str, half: Half) -> None:
    data = random_rows(kind, 64, 512)
    ours, nbytes = stored(kind, data, 512, half)
    assert added_error(kind, ours, dequantised(kind, data)) < 0.8
    assert nbytes <= 1.27 * data.nbytes


def test_rows_that_have_no_whole_group_of_64() -> None:
    data = random_rows("IQ4_NL", 64, 96)
    ours, nbytes = stored("IQ4_NL", data, 96, "F16")
    assert added_error("IQ4_NL", ours, dequantised("IQ4_NL", data)) < 1.1
    assert nbytes <= 1.12 * data.nbytes


def added_error(kind: str, ours: Array, theirs: Array) -> float:
    """The new error beside the one that the quantisation made, as roots of mean squares."""
    # Between the steps of a lattice an error is even, so that its mean square is a third of its greatest one's.
    own = np.mean(rounding(kind, theirs) ** 2) / 3
    return float(np.sqrt(np.mean((ours - theirs) ** 2) / own))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_codes_are_packed_as_mlx_packs_them(bits: int) -> None:
    codes = np.random.default_rng(1).integers(0, 2**bits, (4, 64), dtype=np.uint8)
    ones, zeros = mx.ones((4, 2)), mx.zeros((4, 2))
    read = mx.dequantize(mx.array(packed_words(codes, bits)), ones, zeros, group_size=32, bits=bits, stream=mx.cpu)
    assert np.array_equal(np.array(read), codes)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("bits", [3, 5, 8])
@pytest.mark.parametrize("mean", [0.1, -50, 50])
def test_every_weight_is_within_half_a_step(bits: int, half: Half, mean: float) -> None:
    values = np.random.default_rng(4).normal(mean, 1, (64, 128)).astype("<f4")
    packed = Affine(bits, 64).quantise(values, half)
    scales, biases = widen(packed.scales, half), widen(packed.biases, half)
    ours = mx.dequantize(
        mx.array(packed.words), mx.array(scales), mx.array(biases), group_size=64, bits=bits, stream=mx.cpu
    )
    steps = np.repeat(scales, 64, axis=1)
    assert (np.abs(np.array(ours) - values) <= 0.501 * steps).all()
    # Neither is a step longer than it has to be: what is rounded is the bias, and the step itself.
    spans = np.ptp(values.reshape(64, 2, 64), axis=-1) + np.abs(biases) * 2**-7
    assert (scales * (2**bits - 1) <= spans * (1 + 2**-7)).all()


@pytest.mark.parametrize("half", HALVES)
def test_groups_of_one_value(half: Half) -> None:
    values = np.repeat(np.array([[0.0, -3.0], [1e-3, 7.0]], "<f4"), 32, axis=1)
    packed = Affine(8, 32).quantise(values, half)
    assert np.allclose(widen(packed.biases, half), values[:, ::32], rtol=2**-7)
    assert (packed.words <= 0x01010101 * 255).all()


@pytest.mark.parametrize("half", HALVES)
def test_half_precision(half: Half) -> None:
    values = np.random.default_rng(2).normal(0, 3, 4000).astype("<f4")
    nearest = widen(narrow(values, half), half)
    expected = mx.array(values).astype(mx.float16 if half == "F16" else mx.bfloat16).astype(mx.float32)
    assert np.array_equal(nearest, np.array(expected))
    below, above = widen(narrow_down(values, half), half), widen(narrow_up(np.abs(values), half), half)
    assert (below <= values).all()
    assert (above >= np.abs(values)).all()
    assert np.array_equal(narrow(below, half), narrow_down(below, half))
    assert np.allclose(below, values, rtol=2**-6)
    for wrong in (np.inf, np.nan, 1e39):
        with pytest.raises(OverflowError), np.errstate(over="ignore"):
            narrow(np.array([1.0, wrong]).astype("<f4"), half)
