"""config.json of a plain llama, and its rotary positions."""

import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.rope_utils import Llama3RoPE, initialize_rope

from mlx_ollama.worker.gguf_rope import llama3_factors
from tests.worker.gguf_files import (
    TinyLlama,
    converted,
    write_gguf,
)


def config_of(source: Path) -> dict[str, Any]:
    return dict(json.loads((converted(source) / "config.json").read_text()))


def test_config_of_a_plain_model(tmp_path: Path) -> None:
    config = config_of(write_gguf(tmp_path / "m.gguf", TinyLlama(head_dim=32, kv_heads=4, tied=True)))
    assert config["model_type"] == "llama"
    assert config["rope_traditional"] is False
    assert config["tie_word_embeddings"] is True
    assert (config["head_dim"], config["num_key_value_heads"], config["vocab_size"]) == (32, 4, 512)
    assert (config["rms_norm_eps"], config["rope_theta"]) == (1e-5, 10000.0)
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, [2, 0])
    assert "rope_scaling" not in config


def test_head_size_and_kv_heads_have_defaults(tmp_path: Path) -> None:
    absent = dict.fromkeys(
        f"llama.{key}"
        for key in (
            "attention.key_length",
            "attention.value_length",
            "attention.head_count_kv",
            "rope.dimension_count",
            "rope.freq_base",
        )
    )
    config = config_of(write_gguf(tmp_path / "m.gguf", TinyLlama(kv_heads=4), absent))
    assert (config["head_dim"], config["num_key_value_heads"], config["rope_theta"]) == (16, 4, 10000.0)


def test_rope_scaling(tmp_path: Path) -> None:
    key = "llama.rope.scaling."
    linear = {key + "type": "linear", key + "factor": 4.0}
    source = write_gguf(tmp_path / "linear.gguf", TinyLlama(), linear)
    assert config_of(source)["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}

    source = write_gguf(tmp_path / "old.gguf", TinyLlama(), {"llama.rope.scale_linear": 2.0})
    assert config_of(source)["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}

    yarn = {key + "type": "yarn", key + "factor": 8.0, key + "original_context_length": 64}
    source = write_gguf(tmp_path / "yarn.gguf", TinyLlama(), yarn)
    assert config_of(source)["rope_scaling"] == {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
    }


@pytest.mark.parametrize("attention", [0.878, 1.5])
def test_yarn_with_an_attention_factor_of_its_own(tmp_path: Path, attention: float) -> None:
    key = "llama.rope.scaling."
    yarn = {key + "type": "yarn", key + "factor": 4.0, key + "original_context_length": 64}
    source = write_gguf(tmp_path / "m.gguf", TinyLlama(), {**yarn, key + "attn_factor": attention})
    rope = initialize_rope(16, 10000.0, False, config_of(source)["rope_scaling"], 256)
    # What llama.cpp multiplies queries and keys by.
    assert rope.mscale == pytest.approx(attention * (1 + 0.1 * math.log(4.0)))


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_factors_are_recognised(tmp_path: Path, factor: float) -> None:
    metadata = {"llama.rope.freq_base": 500000.0}
    factors = llama3_factors(factor, 500000.0, 16).astype("<f4")
    source = write_gguf(tmp_path / "m.gguf", TinyLlama(), metadata, {"rope_freqs.weight": (factors, "F32")})
    scaling = config_of(source)["rope_scaling"]
    assert scaling == {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    theirs = Llama3RoPE(64, base=500000.0, scaling_config=scaling)._freqs / 500000.0 ** (mx.arange(0, 64, 2) / 64)
    assert np.allclose(np.array(theirs), llama3_factors(factor, 500000.0, 64), rtol=1e-4)
