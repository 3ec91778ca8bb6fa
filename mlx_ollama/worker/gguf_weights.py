"""The tensors of a llama-family GGUF file as arrays of an MLX model directory.

Q4_0, Q4_1 and Q8_0 are affine already, in blocks of 32: only the bits are put in MLX's order, and nothing is rounded.
Every other type becomes dense half precision.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from gguf import GGMLQuantizationType, dequantize, quantize

from mlx_ollama.worker.gguf_config import GROUP_SIZE, head_count, head_size, kv_head_count, layer_count
from mlx_ollama.worker.gguf_file import Array, ConversionError, GgufFile, GgufTensor
from mlx_ollama.worker.shards import ArraySpec

# how many numbers are widened to float32 at a time: they should stay in the cache
_CHUNK = 1 << 20
# from here on float16 rounds to infinity
_HALF_LIMIT = 65520.0

_MODEL_PATHS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER_PATHS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# the first is read by the config, the second may be tied to the embedding
_OPTIONAL = {"rope_freqs.weight", "output.weight"}

_Q4_0 = np.dtype([("d", "<f2"), ("q", "u1", 16)])
_Q4_1 = np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)])
_Q8_0 = np.dtype([("d", "<f2"), ("q", "u1", 32)])


@dataclass(frozen=True)
class Weight:
    """A tensor on its way.

    `path` names its module in mlx-lm's llama, `rows` puts its rows in order (None: as they are), and `dtype` is the
    dense type it takes when it is not quantised: F16 or BF16.
    """

    tensor: GgufTensor
    path: str
    rows: Array | None
    dtype: str

    @property
    def bits(self) -> int | None:
        """The width of a quantised weight; None for a dense one."""
        packing = _PACKINGS.get(self.tensor.type)
        return None if packing is None else packing.bits

    def specs(self) -> list[ArraySpec]:
        """What `arrays` will give, known before any data are read."""
        shape = self.tensor.shape[::-1]
        if self.bits is None:
            return [ArraySpec(f"{self.path}.weight", self.dtype, shape)]
        rows, columns = shape
        groups = (rows, columns // GROUP_SIZE)
        return [
            ArraySpec(f"{self.path}.weight", "U32", (rows, columns * self.bits // 32)),
            ArraySpec(f"{self.path}.scales", "F16", groups),
            ArraySpec(f"{self.path}.biases", "F16", groups),
        ]

    def arrays(self) -> tuple[Array, ...]:
        """The weight, and for a quantised one its scales and biases."""
        data = self.tensor.data if self.rows is None else self.tensor.data[self.rows]
        packing = _PACKINGS.get(self.tensor.type)
        if packing is None:
            return (dense(data, self.tensor, self.dtype),)
        arrays = packing.repack(data)
        if not all(np.isfinite(array).all() for array in arrays[1:]):
            raise ConversionError(f"the tensor {self.tensor.name} has weights too large for half precision")
        return arrays


def plan_weights(file: GgufFile) -> list[Weight]:
    """Every tensor of the file that the model has a place for, in the file's order.

    Raises ConversionError for a tensor type, or a tensor, that is not supported, and for one that is missing.
    """
    paths = tensor_paths(layer_count(file))
    names = {tensor.name for tensor in file.tensors}
    for name in paths:
        if name not in names | _OPTIONAL:
            raise ConversionError(f"the file lacks the tensor {name}")
    for name in sorted(names - set(paths) - _OPTIONAL):
        raise ConversionError(f"unsupported tensor: {name}")
    # one half precision for all: mixing the two makes MLX compute in float32
    half = "BF16" if "BF16" in {tensor.type for tensor in file.tensors} else "F16"
    return [_weight(file, tensor, paths[tensor.name], half) for tensor in file.tensors if tensor.name in paths]


def tensor_paths(layers: int) -> dict[str, str]:
    """From the names in a GGUF file to the paths of modules in mlx-lm's llama."""
    paths = {f"{name}.weight": path for name, path in _MODEL_PATHS.items()}
    for layer in range(layers):
        paths |= {f"blk.{layer}.{name}.weight": f"model.layers.{layer}.{path}" for name, path in _LAYER_PATHS.items()}
    return paths


def quantised_bits(weights: list[Weight]) -> dict[str, int]:
    return {weight.path: weight.bits for weight in weights if weight.bits is not None}


def converted_arrays(weights: list[Weight], done: Callable[[int], None]) -> Iterator[Array]:
    """The arrays of all weights, in the order of their specs. `done` hears the bytes read after each tensor."""
    read = 0
    for weight in weights:
        yield from weight.arrays()
        read += weight.tensor.data.nbytes
        done(read)


def _weight(file: GgufFile, tensor: GgufTensor, path: str, half: str) -> Weight:
    _check_tensor(tensor, path)
    heads = {"q_proj": head_count(file), "k_proj": kv_head_count(file)}.get(path.rpartition(".")[2])
    rows = None if heads is None else rotary_rows(tensor, heads, head_size(file))
    dtype = tensor.type if tensor.type in ("F16", "BF16") else half
    return Weight(tensor, path, rows, dtype)


def _check_tensor(tensor: GgufTensor, path: str) -> None:
    dimensions = 1 if path.endswith("norm") else 2
    if len(tensor.shape) != dimensions:
        raise ConversionError(f"the tensor {tensor.name} has {len(tensor.shape)} dimensions, not {dimensions}")
    try:  # the package has no list of the types it can read, so it is asked for one row
        dequantize(tensor.data[:1], tensor.kind)
    except NotImplementedError:
        raise ConversionError(f"unsupported tensor type: {tensor.type} (of {tensor.name})") from None


def rotary_rows(tensor: GgufTensor, heads: int, size: int) -> Array:
    """The order that undoes llama.cpp's: it interleaves the two halves of each head's rows, to rotate neighbours.

    An ordinary llama rotates row i with row i + size/2, which is what rope_traditional false means.
    """
    if len(tensor.data) != heads * size:
        raise ConversionError(f"the tensor {tensor.name} has {len(tensor.data)} rows, and {heads} heads of {size}")
    return np.arange(heads * size).reshape(heads, size // 2, 2).swapaxes(1, 2).reshape(-1)


def dense(data: Array, tensor: GgufTensor, dtype: str) -> Array:
    """A tensor's data in half precision: float16, or bfloat16 as uint16 (numpy has no such type).

    Raises ConversionError where float16 cannot hold a weight.
    """
    if tensor.type == "F16":
        return data
    if tensor.type == "BF16":
        return data.view("<u2")
    result = np.empty(tensor.shape[::-1], "<u2" if dtype == "BF16" else "<f2")
    step = max(1, _CHUNK // tensor.shape[0])
    for start in range(0, len(result), step):
        chunk = data[start : start + step]
        result[start : start + step] = _half(dequantize(chunk, tensor.kind), tensor, dtype)
    return result


def _half(values: Array, tensor: GgufTensor, dtype: str) -> Array:
    if dtype == "BF16":
        return np.asarray(quantize(values, GGMLQuantizationType.BF16)).view("<u2")
    if not (values.max() < _HALF_LIMIT and values.min() > -_HALF_LIMIT):  # false for NaN, too
        raise ConversionError(f"the tensor {tensor.name} has weights too large for half precision")
    return values.astype("<f2")


def _repack_q4_0(data: Array) -> tuple[Array, ...]:
    """A weight is d * (q - 8), so the scale is d and the bias -8 d."""
    blocks = data.view(_Q4_0)
    return _words(_nibbles(blocks["q"])), blocks["d"], _scaled(blocks["d"], -8)


def _repack_q4_1(data: Array) -> tuple[Array, ...]:
    """A weight is d * q + m: the scale and the bias as they are."""
    blocks = data.view(_Q4_1)
    return _words(_nibbles(blocks["q"])), blocks["d"], blocks["m"]


def _repack_q8_0(data: Array) -> tuple[Array, ...]:
    """A weight is d * q with q signed; MLX's q is unsigned, so it is q + 128 and the bias -128 d.

    Adding 128 to a byte flips its upper bit.
    """
    blocks = data.view(_Q8_0)
    return _words(blocks["q"] ^ 0x80), blocks["d"], _scaled(blocks["d"], -128)


def _scaled(scales: Array, factor: int) -> Array:
    """Exact, for a power of two moves no bit of a float's fraction; the caller looks for what overflowed."""
    with np.errstate(over="ignore"):
        return scales * np.float16(factor)


def _nibbles(packed: Array) -> Array:
    """Half bytes from GGML's order to MLX's, the lower half first in both.

    In GGML byte j holds the weights j and j + 16, in MLX 2 j and 2 j + 1.
    """
    weights = np.concatenate([packed & 0x0F, packed >> 4], axis=-1)
    repacked: Array = weights[..., 0::2] | (weights[..., 1::2] << 4)
    return repacked


def _words(packed: Array) -> Array:
    """(rows, groups, bytes) as MLX's little-endian words, (rows, words)."""
    return np.ascontiguousarray(packed).reshape(len(packed), -1).view("<u4")


@dataclass(frozen=True)
class _Packing:
    bits: int
    repack: Callable[[Array], tuple[Array, ...]]


_PACKINGS = {"Q4_0": _Packing(4, _repack_q4_0), "Q4_1": _Packing(4, _repack_q4_1), "Q8_0": _Packing(8, _repack_q8_0)}
