"""The first layers of the demo model, with its first 512 tokens: real weights, in any quantisation."""

import functools
from dataclasses import dataclass

import numpy as np

from mlx_ollama.worker.gguf_file import read_gguf
from tests.worker.gguf_files import TinyLlama, demo_file
from tests.worker.quantised import Array, dequantised, rows_of

LAYERS = 2


@dataclass(frozen=True)
class DemoLayers(TinyLlama):
    hidden: int = 576
    ffn: int = 1536
    layers: int = LAYERS
    heads: int = 9
    kv_heads: int = 3
    head_dim: int = 64
    vocab: int = 512
    tied: bool = True

    def tensors(self) -> dict[str, Array]:
        return {
            name: values if values.ndim == 1 else rows_of(self.kind_of(name), self._straight(name, values))
            for name, values in _values().items()
        }

    def _straight(self, name: str, values: Array) -> Array:
        """Undoes llama.cpp's order of the rows of queries and keys, which a writer puts in."""
        if name.split(".")[-2] not in ("attn_q", "attn_k"):
            return values
        pairs = values.reshape(-1, self.head_dim // 2, 2, self.hidden)
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


@functools.cache
def _values() -> dict[str, Array]:
    wanted = ("token_embd.", "output_norm.", *(f"blk.{layer}." for layer in range(LAYERS)))
    tensors = [tensor for tensor in read_gguf(demo_file()).tensors if tensor.name.startswith(wanted)]
    return {
        each.name: np.array(dequantised(each.type, each.open()[: 512 if "embd" in each.name else None]))
        for each in tensors
    }
