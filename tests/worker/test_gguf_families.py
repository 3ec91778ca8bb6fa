"""Every architecture: the logits of a converted GGUF file are those of the published form, read by mlx-lm."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model

from mlx_ollama.worker.gguf_file import ConversionError
from mlx_ollama.worker.load import load
from tests.worker.gguf_files import converted
from tests.worker.quantised import Array
from tests.worker.tiny_families import TINY

TOKENS = list(range(3, 60))


def logits(model: Any) -> Array:
    return np.array(model(mx.array([TOKENS])))


def reference(directory: Path) -> Array:
    mx.set_default_device(mx.Device(mx.cpu))
    return logits(load_model(directory)[0])


def rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


@pytest.mark.parametrize("name", sorted(TINY))
def test_logits_equal_those_of_the_published_form(tmp_path: Path, name: str) -> None:
    family = TINY[name]
    published = reference(family.write_directory(tmp_path / "published", "F32"))
    assert published.std() > 0.1
    for kind in ("F32", "BF16"):
        ours = logits(load(converted(family.write_gguf(tmp_path / f"{kind}.gguf", kind)), device="cpu").model)
        assert np.abs(ours - published).max() <= 1e-5 * np.abs(published).max()


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
@pytest.mark.parametrize("name", sorted(TINY))
def test_logits_of_quantised_weights_agree_within_their_own_error(tmp_path: Path, name: str, kind: str) -> None:
    family = TINY[name]
    exact = reference(family.write_directory(tmp_path / "exact", "F32"))
    rounded = reference(family.write_directory(tmp_path / "rounded", kind))
    ours = logits(load(converted(family.write_gguf(tmp_path / "m.gguf", kind)), device="cpu").model)
    assert rms(ours - rounded) < 0.5 * rms(rounded - exact)


@pytest.mark.parametrize("name", sorted(TINY))
def test_config_is_the_published_one(tmp_path: Path, name: str) -> None:
    family = TINY[name]
    config = json.loads((converted(family.write_gguf(tmp_path / "m.gguf", "F16")) / "config.json").read_text())
    published = dict(family.config)
    if published["model_type"] == "mistral":  # which is a llama for llama.cpp, and for mlx-lm
        published["model_type"] = "llama"
    if name == "qwen2, tied, yarn":  # the file may name these two numbers, the published form leaves them out
        published["rope_scaling"] |= {"beta_fast": 32.0, "beta_slow": 1.0}
    if "longrope" in name:
        published["rope_scaling"] |= {"original_max_position_embeddings": 32}
    assert {key: config[key] for key in published} == published
    assert config["architectures"][0].endswith("ForCausalLM")


# what only one of them has


def gemma3_config(tmp_path: Path, **metadata: Any) -> dict[str, Any]:
    gemma3 = TINY["gemma3"]
    own = {key: value for key, value in gemma3.metadata.items() if not key.startswith("rope.")} | metadata
    own = {key: value for key, value in own.items() if value is not None}
    source = dataclasses.replace(gemma3, metadata=own).write_gguf(tmp_path / f"{len(own)}.gguf", "F16")
    return dict(json.loads((converted(source) / "config.json").read_text()))


def test_gemma3_as_the_reference_server_writes_it(tmp_path: Path) -> None:
    """Its files have two bases of their own, no epsilon, and the tensors for pictures beside those for text."""
    gemma3 = TINY["gemma3"]
    left_out = {"attention.layer_norm_rms_epsilon", "rope.freq_base"}
    theirs = {key: value for key, value in gemma3.metadata.items() if key not in left_out}
    pictures = {
        "v.patch_embedding.weight": np.ones((4, 4, 3, 3), "<f4"),
        "mm.mm_input_projection.weight": np.ones(3, "<f4"),
    }
    family = dataclasses.replace(
        gemma3,
        metadata=theirs | {"rope.global.freq_base": 1000000.0, "rope.local.freq_base": 10000.0},
        tables=pictures,
    )
    ours = logits(load(converted(family.write_gguf(tmp_path / "m.gguf", "BF16")), device="cpu").model)
    published = reference(gemma3.write_directory(tmp_path / "published", "F32"))
    assert np.abs(ours - published).max() <= 1e-5 * np.abs(published).max()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [(2, 2), ([True, True, False, True, True, False, True], 3), ([False] * 7, 1), (None, 6)],
)
def test_gemma3_windows(tmp_path: Path, pattern: Any, expected: int) -> None:
    config = gemma3_config(tmp_path, **{"attention.sliding_window_pattern": pattern})
    assert (config["sliding_window"], config["sliding_window_pattern"]) == (8, expected)


@pytest.mark.parametrize("pattern", [8, 0, [True] * 7, [True, False, True, True, False, True, True], [False] * 6])
def test_gemma3_windows_that_no_pattern_has(tmp_path: Path, pattern: Any) -> None:
    with pytest.raises(ConversionError, match=r"unsupported gemma3\.attention\.sliding_window_pattern"):
        gemma3_config(tmp_path, **{"attention.sliding_window_pattern": pattern})


def test_gemma3_without_windows(tmp_path: Path) -> None:
    config = gemma3_config(tmp_path, **{"attention.sliding_window": 0})
    assert config["sliding_window_pattern"] == 1


@pytest.mark.parametrize("layers", [34, 48, 62])
def test_large_gemma3_has_scaled_positions(tmp_path: Path, layers: int) -> None:
    gemma3 = TINY["gemma3"]
    config = gemma3.config | {"num_hidden_layers": layers, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    metadata = {key: value for key, value in gemma3.metadata.items() if "scaling" not in key} | {"block_count": layers}
    family = dataclasses.replace(gemma3, config=config, metadata=metadata)
    converted_config = json.loads(
        (converted(family.write_gguf(tmp_path / "m.gguf", "F16")) / "config.json").read_text()
    )
    assert converted_config["rope_scaling"] == config["rope_scaling"]
    assert converted_config["query_pre_attn_scalar"] == (64 / 4 if layers == 62 else 32)


def test_phi3_swallows_blanks_behind_the_tokens_of_a_conversation(tmp_path: Path) -> None:
    phi3 = TINY["phi3"]
    kinds = list(phi3.tokenizer["tokenizer.ggml.token_type"])
    tokens = list(phi3.tokenizer["tokenizer.ggml.tokens"])
    tokens[-1], kinds[-1] = "<|user|>", 3
    metadata = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds}
    for name, swallowed in (("Phi3", True), ("Something", False)):
        source = phi3.write_gguf(tmp_path / f"{name}.gguf", "F16", metadata | {"general.name": name})
        tokenizer = load(converted(source), device="cpu").tokenizer
        assert (tokenizer.encode("<|user|>\nThe") == tokenizer.encode("<|user|>The")) is swallowed
        assert tokenizer.encode("<s>\nThe", add_special_tokens=False) != tokenizer.encode(
            "<s>The", add_special_tokens=False
        )


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_gemma_begins_without_a_space(tmp_path: Path, name: str) -> None:
    source = TINY[name].write_gguf(tmp_path / "m.gguf", "F16", {"tokenizer.ggml.add_space_prefix": None})
    tokenizer = load(converted(source), device="cpu").tokenizer
    assert tokenizer.decode(tokenizer.encode("The dog", add_special_tokens=False)[:1]) == "The"
