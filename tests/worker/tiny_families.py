"""Tiny models of every architecture: random weights under the published names, with their config.json.

The GGUF file takes its tensors' names from the `gguf` package, so that ours are not checked against themselves.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes
from safetensors.numpy import save_file

from tests.worker.gguf_files import bpe_metadata, spm_metadata, write_file
from tests.worker.quantised import Array, dequantised, rows_of

CONTEXT = 256


@dataclass(frozen=True)
class TinyFamily:
    """`config` and `metadata` say the same, once as published and once as llama.cpp has it."""

    architecture: str
    config: dict[str, Any]
    metadata: dict[str, Any]
    tokenizer: dict[str, Any] = field(default_factory=lambda: bpe_metadata("qwen2"))
    added_to_norms: float = 0.0
    tables: Mapping[str, Array] = field(default_factory=dict)

    def weights(self) -> dict[str, Array]:
        """float32 that bfloat16 holds exactly, by their published names."""
        model, arguments = _get_classes(dict(self.config))
        shapes = {
            name: array.shape for name, array in tree_flatten(model(arguments.from_dict(self.config)).parameters())
        }
        random = np.random.default_rng(5)
        tied = self.config["tie_word_embeddings"]
        return {
            name: _bfloat16(_values(random, name, shape, 1.0 - self.added_to_norms))
            for name, shape in shapes.items()
            if not (tied and name == "lm_head.weight")
        }

    def write_gguf(self, path: Path, kind: str, metadata: Mapping[str, Any] | None = None) -> Path:
        """Matrices as `kind`, vectors in float32. `metadata` replaces, adds, or with None leaves out."""
        own = {f"{self.architecture}.{key}": value for key, value in self.metadata.items()}
        names = gguf.get_tensor_name_map(
            next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == self.architecture),
            self.config["num_hidden_layers"],
        )
        tensors: dict[str, tuple[Array, str] | None] = {
            names.get_name(name, try_suffixes=(".weight", ".bias")): self._stored(name, values, kind)
            for name, values in self.weights().items()
        }
        tables = {name: (table, "F32") for name, table in self.tables.items()}
        return write_file(path, self.architecture, {**own, **self.tokenizer, **(metadata or {})}, tensors | tables)

    def write_directory(self, directory: Path, kind: str) -> Path:
        """The published form, in float32, of weights that were rounded as `kind` rounds them."""
        directory.mkdir()
        weights = {
            name: values if values.ndim == 1 else dequantised(kind, rows_of(kind, values))
            for name, values in self.weights().items()
        }
        save_file(weights, directory / "model.safetensors")
        (directory / "config.json").write_text(json.dumps(self.config))
        return directory

    def _stored(self, name: str, values: Array, kind: str) -> tuple[Array, str]:
        if name.endswith("norm.weight"):
            return values + np.float32(self.added_to_norms), "F32"
        if values.ndim == 1:
            return values, "F32"
        if self.architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            pairs = values.reshape(-1, 2, self.config["head_dim"] // 2, values.shape[1])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        return rows_of(kind, values), kind


def _values(random: np.random.Generator, name: str, shape: tuple[int, ...], norm: float) -> Array:
    if name.endswith("norm.weight"):
        return random.normal(norm, 0.2, shape)
    if name.endswith(".bias"):
        return random.normal(0, 0.5, shape)
    return random.normal(0, shape[-1] ** -0.5, shape)


def _bfloat16(values: Array) -> Array:
    return dequantised("BF16", rows_of("BF16", values.astype("<f4")))


_COMMON_CONFIG: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "vocab_size": 512,
    "tie_word_embeddings": False,
}
_COMMON_METADATA: dict[str, Any] = {
    "block_count": 2,
    "context_length": CONTEXT,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 1000000.0,
}
_GEMMA_HEADS = {"attention.key_length": 32, "attention.value_length": 32}
_LONG, _SHORT = (np.linspace(1, last, 6).astype("<f4") for last in (40.0, 1.5))
_STRETCH = 8
_YARN = {"factor": 4.0, "original_max_position_embeddings": CONTEXT // 4}

_MISTRAL = TinyFamily(
    "llama",
    _COMMON_CONFIG | {"model_type": "mistral", "head_dim": 32},
    _COMMON_METADATA | _GEMMA_HEADS | {"rope.dimension_count": 32},
    spm_metadata(),
)
_QWEN2 = TinyFamily("qwen2", _COMMON_CONFIG | {"model_type": "qwen2"}, _COMMON_METADATA)
_QWEN3 = TinyFamily(
    "qwen3",
    _COMMON_CONFIG | {"model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True},
    _COMMON_METADATA | _GEMMA_HEADS,
)
_GEMMA2 = TinyFamily(
    "gemma2",
    _COMMON_CONFIG
    | {
        "model_type": "gemma2",
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
        "rope_theta": 10000.0,
    },
    _COMMON_METADATA
    | _GEMMA_HEADS
    | {
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
        "attention.sliding_window": 4096,
        "rope.freq_base": 10000.0,
    },
    spm_metadata(space_prefix=False),
    added_to_norms=1.0,
)
_GEMMA3 = TinyFamily(
    "gemma3",
    _COMMON_CONFIG
    | {
        "model_type": "gemma3_text",
        "num_hidden_layers": 7,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 8,
        "sliding_window_pattern": 6,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "tie_word_embeddings": True,
    },
    _COMMON_METADATA
    | _GEMMA_HEADS
    | {
        "block_count": 7,
        "attention.sliding_window": 8,
        "rope.scaling.type": "linear",
        "rope.scaling.factor": 8.0,
    },
    spm_metadata(space_prefix=False),
    added_to_norms=1.0,
)
_PHI3 = TinyFamily(
    "phi3",
    _COMMON_CONFIG | {"model_type": "phi3", "num_key_value_heads": 4},
    _COMMON_METADATA | {"attention.head_count_kv": 4, "rope.dimension_count": 16},
    spm_metadata(),
)

TINY = {
    "mistral": _MISTRAL,
    "qwen2": _QWEN2,
    "qwen2, tied, yarn": TinyFamily(
        "qwen2",
        _QWEN2.config | {"tie_word_embeddings": True, "rope_scaling": {"rope_type": "yarn", **_YARN}},
        _QWEN2.metadata
        | {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": CONTEXT // 4,
        },
    ),
    "qwen3": _QWEN3,
    "gemma2": _GEMMA2,
    "gemma3": _GEMMA3,
    "phi3": _PHI3,
    "phi3, part rotated, longrope": TinyFamily(
        "phi3",
        _COMMON_CONFIG
        | {
            "model_type": "phi3",
            "tie_word_embeddings": True,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": CONTEXT // _STRETCH,
            "rope_scaling": {
                "type": "longrope",
                "long_factor": [float(factor) for factor in _LONG],
                "short_factor": [float(factor) for factor in _SHORT],
            },
        },
        _COMMON_METADATA
        | {
            "rope.dimension_count": 12,
            "rope.scaling.original_context_length": CONTEXT // _STRETCH,
            "rope.scaling.attn_factor": (1 + np.log(_STRETCH) / np.log(CONTEXT / _STRETCH)) ** 0.5,
        },
        bpe_metadata("gpt-4o"),
        tables={"rope_factors_long.weight": _LONG, "rope_factors_short.weight": _SHORT},
    ),
}
