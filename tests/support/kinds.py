"""Tiny models whose caches cannot be shortened: a window that slides, and states that only go forward.

States are those of convolutions, of delta rules, and of a Mamba beside attention in one layer.
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models import falcon_h1, lfm2, olmo3, qwen3_5

from tests.support.tiny import VOCABULARY, write_tokenizer

WINDOW = 32
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "rope_theta": 10000.0,
    "eos_token_id": 2,
    "bos_token_id": 1,
    "torch_dtype": "float32",
}
_KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "window": (
        olmo3,
        {
            "model_type": "olmo3",
            "rms_norm_eps": 1e-5,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "recurrent": (
        lfm2,
        {
            "model_type": "lfm2",
            "norm_eps": 1e-5,
            "conv_bias": False,
            "conv_L_cache": 3,
            "block_dim": 64,
            "block_multiple_of": 64,
            "block_ffn_dim_multiplier": 1.0,
            "block_auto_adjust_ff_dim": False,
            "layer_types": ["conv", "full_attention", "conv"],
        },
    ),
    "delta": (
        qwen3_5,
        {
            "model_type": "qwen3_5",
            "text_config": _SIZES
            | {
                "model_type": "qwen3_5_text",
                "num_hidden_layers": 2,
                "head_dim": 16,
                "linear_num_value_heads": 4,
                "linear_num_key_heads": 2,
                "linear_key_head_dim": 16,
                "linear_value_head_dim": 16,
                "full_attention_interval": 2,
            },
        },
    ),
    "beside": (
        falcon_h1,
        {
            "model_type": "falcon_h1",
            "num_hidden_layers": 2,
            "head_dim": 16,
            "mamba_d_head": 16,
            "mamba_d_ssm": 64,
            "mamba_d_state": 16,
            "mamba_n_heads": 4,
            "mamba_chunk_size": 16,
            "tie_word_embeddings": False,
        },
    ),
}
KINDS = tuple(_KINDS)


def write_kind(directory: Path, kind: str, *, seed: int = 0, scale: float = 2.0) -> Path:
    """A model of one of `KINDS` with scaled random weights, so that its greedy text varies."""
    directory.mkdir(parents=True, exist_ok=True)
    write_tokenizer(directory)
    module, own = _KINDS[kind]
    config = _SIZES | own
    model = module.Model(module.ModelArgs.from_dict(config))
    mx.random.seed(seed)
    weights = {
        name: mx.ones(value.shape)
        if value.ndim == 1
        else mx.random.normal(value.shape) * (scale / value.shape[-1] ** 0.5)
        for name, value in tree_flatten(model.parameters())
    }
    mx.save_safetensors(str(directory / "model.safetensors"), weights, metadata={"format": "mlx"})
    (directory / "config.json").write_text(json.dumps(config))
    return directory
