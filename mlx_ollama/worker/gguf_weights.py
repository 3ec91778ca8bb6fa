"""The tensors of a GGUF file as arrays of an MLX model directory, a few rows at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from gguf import dequantize

from mlx_ollama.worker.affine import Affine
from mlx_ollama.worker.gguf_blocks import DENSE, blocks_of
from mlx_ollama.worker.gguf_families import Family
from mlx_ollama.worker.gguf_file import ConversionError, GgufFile, GgufTensor
from mlx_ollama.worker.gguf_sizes import head_count, head_size, kv_head_count, layer_count
from mlx_ollama.worker.halves import Array, Half, narrow
from mlx_ollama.worker.shards import ArraySpec

Dense = Half | Literal["F32"]

# how many numbers are worked on at a time: they should stay in the cache
_CHUNK = 1 << 17
# after how much of a large tensor its progress is told
_STRIDE_BYTES = 16 << 20


@dataclass(frozen=True)
class Weight:
    """A tensor on its way.

    `name` is that of the parameter in mlx-lm's model, `rows` puts its rows in order (None: as they are), `added` is
    what llama.cpp added to it, and `dtype` what it becomes if it is dense, or else its scales and biases.
    """

    tensor: GgufTensor
    name: str
    dtype: Dense
    rows: Array | None = None
    added: float = 0.0

    @property
    def path(self) -> str:
        """The module it belongs to."""
        return self.name.rpartition(".")[0]

    @property
    def form(self) -> Affine | None:
        """What it is quantised to; None if it is dense."""
        blocks = blocks_of(self.tensor) if len(self.tensor.shape) > 1 else None
        return None if blocks is None else blocks.form

    def specs(self) -> list[ArraySpec]:
        """What `pieces` will give, known before any data are read."""
        if self.form is None:
            return [ArraySpec(self.name, self.dtype, self.tensor.shape[::-1])]
        words, groups = self.form.shapes(self.tensor.rows, self.tensor.shape[0])
        return [
            ArraySpec(self.name, "U32", words),
            ArraySpec(f"{self.path}.scales", self.dtype, groups),
            ArraySpec(f"{self.path}.biases", self.dtype, groups),
        ]

    def pieces(self) -> Iterator[tuple[str, Array]]:
        """The arrays of `specs` by name, a few rows of each in turn. Raises ConversionError for too large weights."""
        names = [spec.name for spec in self.specs()]
        data = self.tensor.open()
        step = max(1, _CHUNK // self.tensor.shape[0]) if len(self.tensor.shape) > 1 else len(data)
        for start in range(0, len(data), step):
            rows = slice(start, start + step)
            try:
                arrays = self._arrays(data[rows if self.rows is None else self.rows[rows]])
            except OverflowError:
                reason = f"the tensor {self.tensor.name} has weights too large for half precision"
                raise ConversionError(reason) from None
            yield from zip(names, arrays, strict=True)

    def _arrays(self, data: Array) -> tuple[Array, ...]:
        blocks = blocks_of(self.tensor) if self.form else None
        if blocks is not None and self.dtype != "F32":
            return blocks.pack(data, self.tensor, self.dtype)
        return (self._dense(data),)

    def _dense(self, data: Array) -> Array:
        if self.tensor.type == self.dtype and not self.added:
            return data if self.dtype == "F32" else data.view("<u2")
        values: Array = dequantize(data, self.tensor.kind) - np.float32(self.added)
        return values if self.dtype == "F32" else narrow(values, self.dtype)


def plan_weights(file: GgufFile, family: Family) -> list[Weight]:
    """Every tensor of the file that the model has a place for, in the file's order.

    Raises ConversionError for a tensor type, or a tensor, that is not supported, and for one that is missing.
    """
    parameters = family.parameters(layer_count(file))
    names = {tensor.name for tensor in file.tensors}
    for name in parameters:
        if name not in names and not family.may_lack(name):
            raise ConversionError(f"the file lacks the tensor {name}")
    for name in sorted(names):
        if name not in parameters and not family.passes_over(name):
            raise ConversionError(f"unsupported tensor: {name}")
    wanted = [tensor for tensor in file.tensors if tensor.name in parameters]
    dtype = _dense_type(wanted, family)
    return [_weight(file, family, tensor, parameters[tensor.name], dtype) for tensor in wanted]


def forms(weights: list[Weight]) -> dict[str, Affine]:
    """The quantised modules."""
    return {weight.path: weight.form for weight in weights if weight.form is not None}


def converted_pieces(weights: list[Weight], done: Callable[[int], None]) -> Iterator[tuple[str, Array]]:
    """The arrays of all weights. `done` hears the bytes read, after each tensor and now and then in a large one."""
    before = 0
    for weight in weights:
        rows = told = 0
        for name, piece in weight.pieces():
            yield name, piece
            rows += len(piece) if name == weight.name else 0
            read = weight.tensor.nbytes * rows // weight.specs()[0].shape[0]
            if read - told >= _STRIDE_BYTES:
                told = read
                done(before + read)
        before += weight.tensor.nbytes
        done(before)


def _dense_type(tensors: list[GgufTensor], family: Family) -> Dense:
    """One for all that is not quantised: where two meet, MLX computes in float32.

    A file that was left in full precision keeps it.
    """
    types = {tensor.type for tensor in tensors if len(tensor.shape) > 1}
    if types == {"F32"}:
        return "F32"
    return "BF16" if "BF16" in types else family.half


def _weight(file: GgufFile, family: Family, tensor: GgufTensor, name: str, dtype: Dense) -> Weight:
    is_norm = tensor.name.endswith("norm.weight")
    dimensions = 2 if name.endswith(".weight") and not is_norm else 1
    if len(tensor.shape) != dimensions:
        raise ConversionError(f"the tensor {tensor.name} has {len(tensor.shape)} dimensions, not {dimensions}")
    if tensor.type not in DENSE and (dimensions == 1 or blocks_of(tensor) is None):
        raise ConversionError(f"unsupported tensor type: {tensor.type} (of {tensor.name})")
    rows = None
    if family.interleaved:
        heads = {"q_proj": head_count, "k_proj": kv_head_count}.get(name.split(".")[-2])
        rows = heads and rotary_rows(tensor, heads(file), head_size(file))
    return Weight(tensor, name, dtype, rows, family.added_to_norms if is_norm else 0.0)


def rotary_rows(tensor: GgufTensor, heads: int, size: int) -> Array:
    """The order that undoes llama.cpp's: it interleaves the two halves of each head's rows, to rotate neighbours.

    An ordinary llama rotates row i with row i + size/2, which is what rope_traditional false means.
    """
    if tensor.rows != heads * size:
        raise ConversionError(f"the tensor {tensor.name} has {tensor.rows} rows, and {heads} heads of {size}")
    return np.arange(heads * size).reshape(heads, size // 2, 2).swapaxes(1, 2).reshape(-1)
