"""The encoder beside one written out in NumPy and float64, for every family of names; and every reason to fail."""

import json
from math import erf
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from mlx import nn
from safetensors.numpy import load_file, save_file

from mlx_ollama.errors import LoadFailed
from mlx_ollama.worker import cpu_math
from mlx_ollama.worker.encoder_weights import load_encoder, read_config
from tests.support.embedders import (
    HEADS,
    HIDDEN,
    LAYER_NAMES,
    LAYERS,
    encoder_config,
    encoder_weights,
    write_tiny_encoder,
)

Array = npt.NDArray[np.float64]
KINDS = ("bert", "xlm-roberta", "distilbert", "nomic_bert")
TOKENS = [[2, 7, 9, 30, 55, 3], [2, 12, 3]]


@pytest.fixture(autouse=True)
def _on_cpu() -> None:
    mx.set_default_device(mx.cpu)


def plainly(kind: str, tokens: list[int]) -> Array:
    """One text, no filling, one formula after the other."""
    if kind == "nomic_bert":
        return plainly_nomic(tokens)
    weights = {name: array.astype(np.float64) for name, array in encoder_weights(kind).items()}
    epsilon = encoder_config(kind).get("layer_norm_eps", 1e-12)

    def norm(name: str, x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        return np.asarray(centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"])

    def linear(name: str, x: Array) -> Array:
        return np.asarray(x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])

    first = 2 if kind == "xlm-roberta" else 0
    x = weights["embeddings.word_embeddings.weight"][tokens]
    x = x + weights["embeddings.position_embeddings.weight"][first : first + len(tokens)]
    if kind != "distilbert":
        x = x + weights["embeddings.token_type_embeddings.weight"][0]
    x = norm("embeddings.LayerNorm", x)
    for layer in range(LAYERS):
        names = LAYER_NAMES["distilbert" if kind == "distilbert" else "bert"]
        stem = f"{'transformer' if kind == 'distilbert' else 'encoder'}.layer.{layer}."
        query, key, value, out, attention_norm, widen, narrow, last_norm = (stem + name for name in names)
        q, k, v = (linear(name, x).reshape(len(tokens), HEADS, -1).transpose(1, 0, 2) for name in (query, key, value))
        scores = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(HIDDEN / HEADS))
        mixed = (scores / scores.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(tokens), HIDDEN)
        x = norm(attention_norm, x + linear(out, mixed))
        wide = linear(widen, x)
        wide = wide * 0.5 * (1 + np.vectorize(erf)(wide / np.sqrt(2)))
        x = norm(last_norm, x + linear(narrow, wide))
    return x


def plainly_nomic(tokens: list[int]) -> Array:
    """As `plainly`; positions turn pairs of numbers half a head apart, and each feed-forward step has a gate."""
    weights = {name: array.astype(np.float64) for name, array in encoder_weights("nomic_bert").items()}

    def norm(name: str, x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return np.asarray(centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"])

    def turned(x: Array) -> Array:
        half = x.shape[-1] // 2
        angles = np.arange(len(tokens))[:, None] * 1000.0 ** (-np.arange(half) / half)
        first, second = x[..., :half], x[..., half:]
        return np.concatenate(
            [first * np.cos(angles) - second * np.sin(angles), first * np.sin(angles) + second * np.cos(angles)], -1
        )

    x = weights["embeddings.word_embeddings.weight"][tokens] + weights["embeddings.token_type_embeddings.weight"][0]
    x = norm("emb_ln", x)
    for layer in range(LAYERS):
        stem = f"encoder.layers.{layer}."
        joined = x @ weights[f"{stem}attn.Wqkv.weight"].T
        q, k, v = (part.reshape(len(tokens), HEADS, -1).transpose(1, 0, 2) for part in np.split(joined, 3, axis=-1))
        scores = np.exp(turned(q) @ turned(k).transpose(0, 2, 1) / np.sqrt(HIDDEN / HEADS))
        mixed = (scores / scores.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(tokens), HIDDEN)
        x = norm(f"{stem}norm1", x + mixed @ weights[f"{stem}attn.out_proj.weight"].T)
        gate = x @ weights[f"{stem}mlp.fc12.weight"].T
        wide = x @ weights[f"{stem}mlp.fc11.weight"].T * gate / (1 + np.exp(-gate))
        x = norm(f"{stem}norm2", x + wide @ weights[f"{stem}mlp.fc2.weight"].T)
    return x


def computed(directory: Path) -> npt.NDArray[np.float32]:
    encoder, _ = load_encoder(directory, read_config(directory))
    width = max(map(len, TOKENS))
    filled = mx.array([[*text, *[0] * (width - len(text))] for text in TOKENS])
    present = mx.arange(width)[None] < mx.array([len(text) for text in TOKENS])[:, None]
    return np.array(encoder(filled, present))


def test_the_plain_one_tells_kinds_apart() -> None:
    vectors = [plainly(kind, TOKENS[0]) for kind in KINDS]
    assert np.abs(vectors[0] - vectors[1]).max() > 0.1
    assert np.abs(vectors[0][0] - vectors[0][1]).max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_it_equals_the_formulas(tmp_path: Path, kind: str, prefix: str) -> None:
    result = computed(write_tiny_encoder(tmp_path, kind, prefix=prefix))
    for row, tokens in enumerate(TOKENS):
        assert np.abs(result[row, : len(tokens)] - plainly(kind, tokens)).max() < 1e-5


def test_the_gpus_way_equals_the_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write_tiny_encoder(tmp_path)
    ours = computed(directory)
    monkeypatch.setattr(cpu_math, "gelu", nn.gelu)
    monkeypatch.setattr(cpu_math, "attention", mx.fast.scaled_dot_product_attention)
    assert np.abs(computed(directory)[0] - ours[0]).max() < 1e-5


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("most", [1, 2 * 4 * 11 * 3, 2 * 4 * 11 * 10])
def test_long_texts_attend_in_blocks(monkeypatch: pytest.MonkeyPatch, masked: bool, most: int) -> None:
    queries, keys, values = mx.random.normal((3, 2, 4, 11, 8), key=mx.random.key(1))
    mask = (mx.arange(11)[None] < mx.array([11, 7])[:, None])[:, None, None, :] if masked else None
    whole = np.array(cpu_math.attention(queries, keys, values, scale=0.5, mask=mask))
    sizes = []
    attended = cpu_math._attended

    def noted(queries: mx.array, *rest: Any) -> mx.array:
        sizes.append(queries.shape[2])
        return attended(queries, *rest)

    monkeypatch.setattr(cpu_math, "MOST_SCORES", most)
    monkeypatch.setattr(cpu_math, "_attended", noted)
    blocks = np.array(cpu_math.attention(queries, keys, values, scale=0.5, mask=mask))
    assert np.abs(blocks - whole).max() < 1e-6
    assert sum(sizes) == 11
    assert max(sizes) <= max(1, most // (2 * 4 * 11))


def test_gelu_everywhere() -> None:
    x = np.linspace(-12, 12, 20_001, dtype=np.float32)
    exact = x * 0.5 * (1 + np.vectorize(erf)(x.astype(np.float64) / np.sqrt(2)))
    assert np.abs(np.array(cpu_math.gelu(mx.array(x))) - exact).max() < 2e-6


def test_names_of_old_files(tmp_path: Path) -> None:
    file = write_tiny_encoder(tmp_path) / "model.safetensors"
    before = computed(tmp_path)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
        for name, array in load_file(file).items()
    }
    save_file(old, file)
    assert np.array_equal(computed(tmp_path), before)


def test_half_precision_is_widened(tmp_path: Path) -> None:
    file = write_tiny_encoder(tmp_path) / "model.safetensors"
    save_file({name: array.astype(np.float16) for name, array in load_file(file).items()}, file)
    assert computed(tmp_path).dtype == np.float32
    assert np.abs(computed(tmp_path)[0] - plainly("bert", TOKENS[0])).max() < 0.02


def test_quantised_weights(tmp_path: Path) -> None:
    write_tiny_encoder(tmp_path)
    file = str(tmp_path / "model.safetensors")
    stored: Any = mx.load(file)
    weights: dict[str, mx.array] = {}
    for name, array in stored.items():
        if array.ndim == 2 and array.shape[-1] % 32 == 0:
            packed: Any = mx.quantize(array, group_size=32, bits=8)
            layer = name.removesuffix(".weight")
            weights |= dict(zip((name, f"{layer}.scales", f"{layer}.biases"), packed, strict=True))
        else:
            weights[name] = array
    mx.save_safetensors(file, weights)
    edit(tmp_path, quantization={"group_size": 32, "bits": 8})
    assert np.abs(computed(tmp_path)[0] - plainly("bert", TOKENS[0])).max() < 0.1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_act": "swish3"}, "the activation swish3 is not supported"),
        ({"position_embedding_type": "relative_key"}, "bert models with relative positions are not supported"),
        ({"vocab_size": None}, "config.json does not describe a bert model"),
        ({"num_hidden_layers": 3}, "do not make a bert model: "),
        ({"hidden_size": 48}, "do not make a bert model: "),
    ],
)
def test_reasons_to_fail(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    edit(write_tiny_encoder(tmp_path), **changes)
    with pytest.raises(LoadFailed, match=words):
        computed(tmp_path)


@pytest.mark.parametrize(
    "changes", [{"rotary_emb_fraction": 0.5}, {"rotary_emb_interleaved": True}, {"prenorm": True}, {"n_embd": None}]
)
def test_what_nomics_settings_ask_for_in_vain(tmp_path: Path, changes: dict[str, Any]) -> None:
    edit(write_tiny_encoder(tmp_path, "nomic_bert"), **changes)
    with pytest.raises(LoadFailed, match=r"config\.json does not describe a nomic_bert model"):
        computed(tmp_path)


def test_newer_words_for_nomics_settings(tmp_path: Path) -> None:
    before = computed(write_tiny_encoder(tmp_path, "nomic_bert"))
    config = json.loads((tmp_path / "config.json").read_text())
    newer = {
        "hidden_size": config.pop("n_embd"),
        "num_hidden_layers": config.pop("n_layer"),
        "num_attention_heads": config.pop("n_head"),
        "intermediate_size": config.pop("n_inner"),
        "max_position_embeddings": config.pop("max_trained_positions"),
        "layer_norm_eps": config.pop("layer_norm_epsilon"),
        "rope_parameters": {"rope_type": "default", "rope_theta": config.pop("rotary_emb_base")},
    }
    (tmp_path / "config.json").write_text(json.dumps(config | newer))
    assert np.array_equal(computed(tmp_path), before)


def test_layers_of_other_forms(tmp_path: Path) -> None:
    write_tiny_encoder(tmp_path, "nomic_bert")
    file = str(tmp_path / "model.safetensors")
    stored: Any = mx.load(file)
    wide = "encoder.layers.0.attn.Wqkv"
    for layer, bits in ((wide, 8), ("encoder.layers.1.mlp.fc2", 4)):
        packed: Any = mx.quantize(stored[f"{layer}.weight"], group_size=32, bits=bits)
        stored |= dict(zip((f"{layer}.weight", f"{layer}.scales", f"{layer}.biases"), packed, strict=True))
    mx.save_safetensors(file, stored)
    edit(tmp_path, quantization={"group_size": 32, "bits": 4, wide: {"group_size": 32, "bits": 8}})
    assert np.abs(computed(tmp_path)[0] - plainly("nomic_bert", TOKENS[0])).max() < 0.5


def test_damaged_weights(tmp_path: Path) -> None:
    (write_tiny_encoder(tmp_path) / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(LoadFailed, match="cannot be read"):
        computed(tmp_path)


def edit(directory: Path, **changes: Any) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **changes}))
