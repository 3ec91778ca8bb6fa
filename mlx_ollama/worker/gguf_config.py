"""config.json of an ordinary llama, from the metadata of a GGUF file."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlx_ollama.worker.gguf_file import Array, ConversionError, GgufFile
from mlx_ollama.worker.gguf_tokenizer import end_token_ids

ARCHITECTURE = "llama"
GROUP_SIZE = 32

# Llama 3.1's rule has four numbers; llama.cpp stores its result as a tensor and keeps none of them. These three are the
# same in every model that was published with the rule, and the fourth is the tensor's largest element.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def model_config(file: GgufFile, bits: Mapping[str, int]) -> dict[str, Any]:
    """The config that mlx-lm reads. `bits` names the quantised layers and their width.

    Raises ConversionError for what mlx-lm's llama cannot compute.
    """
    hidden_size = _count(file, "embedding_length")
    heads = head_count(file)
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden_size,
        "intermediate_size": _count(file, "feed_forward_length"),
        "num_hidden_layers": layer_count(file),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_head_count(file),
        "head_dim": head_size(file),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": _count(file, "context_length"),
        "rms_norm_eps": file.require("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": file.metadata.get("llama.rope.freq_base", 10000.0),
        "rope_traditional": False,
        "rope_scaling": rope_scaling(file),
        "vocab_size": _vocabulary(file),
        "tie_word_embeddings": file.tensor("output.weight") is None,
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": end_token_ids(file.metadata) or None,
        "quantization": quantization(bits),
    }
    return {key: value for key, value in config.items() if value is not None}


def check_architecture(file: GgufFile) -> None:
    """Refuse by name what is not a plain llama."""
    architecture = file.require("general.architecture")
    if architecture != ARCHITECTURE:
        raise ConversionError(f"unsupported architecture: {architecture}")
    if file.metadata.get("llama.expert_count", 0):
        raise ConversionError("unsupported architecture: llama with a mixture of experts")
    rotated = file.metadata.get("llama.rope.dimension_count", head_size(file))
    values = file.metadata.get("llama.attention.value_length", head_size(file))
    if rotated != head_size(file) or values != head_size(file):
        raise ConversionError(
            f"unsupported heads: {head_size(file)} numbers, of which {rotated} are rotated, and {values} in a value"
        )


def layer_count(file: GgufFile) -> int:
    return _count(file, "block_count")


def head_count(file: GgufFile) -> int:
    return _count(file, "attention.head_count")


def kv_head_count(file: GgufFile) -> int:
    return (
        _count(file, "attention.head_count_kv")
        if "llama.attention.head_count_kv" in file.metadata
        else head_count(file)
    )


def head_size(file: GgufFile) -> int:
    if "llama.attention.key_length" in file.metadata:
        return _count(file, "attention.key_length")
    return _count(file, "embedding_length") // head_count(file)


def quantization(bits: Mapping[str, int]) -> dict[str, Any] | None:
    """The commonest width for all, and an entry for each layer that differs; layers that are not named stay dense."""
    if not bits:
        return None
    common = Counter(bits.values()).most_common(1)[0][0]
    differing = {path: {"group_size": GROUP_SIZE, "bits": n} for path, n in bits.items() if n != common}
    return {"group_size": GROUP_SIZE, "bits": common, **differing}


def rope_scaling(file: GgufFile) -> dict[str, Any] | None:
    """The scaling of rotary positions: linear, yarn, or llama3 recovered from its table of factors."""
    kind = file.metadata.get("llama.rope.scaling.type", "none")
    factors = file.tensor("rope_freqs.weight")
    if factors is not None and kind != "none":
        raise ConversionError(f"unsupported rope scaling: {kind} together with rope_freqs.weight")
    if factors is not None:
        return _llama3(np.asarray(factors.data), file)
    if kind == "none":
        return _linear(file.metadata.get("llama.rope.scale_linear", 1.0))
    if kind == "linear":
        return _linear(file.require("llama.rope.scaling.factor"))
    if kind == "yarn":
        return _yarn(file)
    raise ConversionError(f"unsupported rope scaling: {kind}")


def _linear(factor: float) -> dict[str, Any] | None:
    return None if factor == 1.0 else {"rope_type": "linear", "factor": factor}


def _yarn(file: GgufFile) -> dict[str, Any]:
    prefix = "llama.rope.scaling."
    if file.metadata.get(prefix + "attn_factor", 1.0) != 1.0:
        raise ConversionError("unsupported rope scaling: yarn with an attention factor of its own")
    return {
        "rope_type": "yarn",
        "factor": file.require(prefix + "factor"),
        "original_max_position_embeddings": file.require(prefix + "original_context_length"),
        "beta_fast": file.metadata.get(prefix + "yarn_beta_fast", 32.0),
        "beta_slow": file.metadata.get(prefix + "yarn_beta_slow", 1.0),
    }


def _llama3(factors: Array, file: GgufFile) -> dict[str, Any]:
    factor = float(factors.max())
    base = file.metadata.get("llama.rope.freq_base", 10000.0)
    expected = llama3_factors(factor, base, head_size(file))
    if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-4):
        raise ConversionError("unsupported rope scaling: rope_freqs.weight does not follow llama 3's rule")
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3}


def llama3_factors(factor: float, base: float, size: int) -> Array:
    """What each of the size/2 frequencies is divided by, after Llama 3.1's reference code.

    Wavelengths up to a quarter of the original context are kept, those beyond all of it are stretched by `factor`, and
    between the two the frequency is interpolated.
    """
    context = _LLAMA3["original_max_position_embeddings"]
    low, high = _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"]
    wavelengths = 2 * math.pi * base ** (np.arange(0, size, 2, dtype=np.float64) / size)
    smooth = np.clip((context / wavelengths - low) / (high - low), 0.0, 1.0)
    return 1.0 / ((1.0 - smooth) / factor + smooth)


def _count(file: GgufFile, key: str) -> int:
    value = file.require(f"{ARCHITECTURE}.{key}")
    if not isinstance(value, int) or value < 1:
        raise ConversionError(f"unsupported {ARCHITECTURE}.{key}: one positive number for the whole model is needed")
    return value


def _vocabulary(file: GgufFile) -> int:
    """The embedding counts: some files pad it beyond the tokens they list."""
    embedding = file.tensor("token_embd.weight")
    if embedding is None:
        raise ConversionError("the file lacks the tensor token_embd.weight")
    return embedding.shape[-1]
