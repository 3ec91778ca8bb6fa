"""Families that read pictures, too (Gemma 3 and 4, Mistral Small 3, Qwen 3.5 in the catalog), write text here.

Their configuration has the language model's inside, and their files the weights of an encoder that is not ours.
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes

from mlx_ollama.models.directory import ModelDirectory
from tests.support.tiny import VOCABULARY, write_tokenizer
from tests.worker.test_engine import PROMPTS, Machine, submit

CONTEXT = 2048
_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}
_WINDOWS = {"sliding_window": 32, "sliding_window_pattern": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma3": {"model_type": "gemma3_text", "query_pre_attn_scalar": 16, **_WINDOWS},
    "gemma4": {
        "model_type": "gemma4_text",
        "hidden_size_per_layer_input": 0,
        "num_kv_shared_layers": 0,
        "global_head_dim": 16,
        "vocab_size_per_layer_input": VOCABULARY,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        **_WINDOWS,
    },
    "mistral3": {"model_type": "mistral", "tie_word_embeddings": False},
    "qwen3_5": {
        "model_type": "qwen3_5_text",
        "tie_word_embeddings": True,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_conv_kernel_dim": 4,
        "full_attention_interval": 2,
        "rope_parameters": {"type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    },
}


def write(directory: Path, family: str) -> Path:
    config = {
        "model_type": family,
        "text_config": _TEXT | FAMILIES[family],
        "vision_config": {},
        "vocab_size": VOCABULARY,
        "eos_token_id": 2,
    }
    write_tokenizer(directory)
    model_class, arguments = _get_classes(dict(config))
    mx.random.seed(3)
    weights = {
        name: mx.ones(array.shape) if array.ndim == 1 else mx.random.normal(array.shape) * 0.3
        for name, array in tree_flatten(model_class(arguments.from_dict(config)).parameters())
    }
    pictures = {"vision_tower.patch_embedding.weight": mx.ones((2, 2))}
    mx.save_safetensors(str(directory / "model.safetensors"), weights | pictures)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("family", FAMILIES)
def test_they_write(tmp_path: Path, family: str) -> None:
    mx.set_default_device(mx.cpu)
    directory = write(tmp_path, family)
    machine = Machine(directory)
    machine.run([submit(at, PROMPTS[at], limit=8) for at in range(2)])
    assert all(machine.finished(at).context for at in range(2))
    found = ModelDirectory.read(directory)
    assert found.embedder is None
    assert found.context_length == CONTEXT
