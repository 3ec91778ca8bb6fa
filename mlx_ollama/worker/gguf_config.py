"""config.json, from the metadata of a GGUF file."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from mlx_ollama.worker.affine import Affine
from mlx_ollama.worker.gguf_families import Family
from mlx_ollama.worker.gguf_file import GgufFile
from mlx_ollama.worker.gguf_rope import rope_theta
from mlx_ollama.worker.gguf_sizes import head_count, hidden_size, kv_head_count, layer_count, vocabulary_size
from mlx_ollama.worker.gguf_tokenizer import end_token_ids


def model_config(file: GgufFile, family: Family, forms: Mapping[str, Affine]) -> dict[str, Any]:
    """The config that mlx-lm reads, or our encoder. `forms` names the quantised modules.

    Raises ConversionError for what the model cannot compute.
    """
    config = {
        "architectures": [family.class_name],
        "model_type": family.model_type,
        "rope_scaling": family.rope_scaling(file),
        "quantization": quantization(forms),
        **({} if family.encoder else _decoder(file, family)),
        **family.settings(file),
    }
    return {key: value for key, value in config.items() if value is not None}


def _decoder(file: GgufFile, family: Family) -> dict[str, Any]:
    """What all language models have."""
    return {
        "hidden_size": hidden_size(file),
        "intermediate_size": file.count("feed_forward_length"),
        "num_hidden_layers": layer_count(file),
        "num_attention_heads": head_count(file),
        "num_key_value_heads": kv_head_count(file),
        "hidden_act": "silu",
        "max_position_embeddings": file.count("context_length"),
        "rms_norm_eps": family.epsilon(file),
        "rope_theta": rope_theta(file),
        "vocab_size": vocabulary_size(file),
        "tie_word_embeddings": file.tensor("output.weight") is None,
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": end_token_ids(file.metadata) or None,
    }


def quantization(forms: Mapping[str, Affine]) -> dict[str, Any] | None:
    """The commonest form for all, and an entry for each module that differs; those not named stay dense."""
    if not forms:
        return None
    common = Counter(forms.values()).most_common(1)[0][0]
    return {**_entry(common), **{path: _entry(form) for path, form in forms.items() if form != common}}


def _entry(form: Affine) -> dict[str, int]:
    return {"group_size": form.group, "bits": form.bits}
