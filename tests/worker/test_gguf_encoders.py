"""Encoders from GGUF files: the vectors are those of the same weights in their published form."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_ollama.models.directory import ModelDirectory
from mlx_ollama.worker.device import Device
from mlx_ollama.worker.embedder import LoadedEmbedder, load_embedder
from mlx_ollama.worker.gguf_file import ConversionError
from mlx_ollama.worker.gguf_tokenizer import build_tokenizer
from tests.support.embedders import WORDS, encoder_weights, write_modules, write_tiny_encoder
from tests.worker.encoder_ggufs import (
    ARCHITECTURES,
    unigram_metadata,
    unigram_processor,
    word_metadata,
    write_encoder_gguf,
)
from tests.worker.gguf_files import converted
from tests.worker.quantised import Array, dequantised, rows_of
from tests.worker.tiny_families import TINY

TOKENS = [[2, 7, 9, 30, 55, 3], [2, 12, 3], list(range(4, 60))]
TEXTS = ["ba be", "Zuzu ZIZE, mömo", "", "keti qqq " * 9]


def load(directory: Path) -> LoadedEmbedder:
    mx.set_default_device(mx.cpu)
    embedder = ModelDirectory.read(directory).embedder
    assert embedder
    return load_embedder(directory, embedder, Device("cpu", 0))


def rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_vectors_equal_those_of_the_published_form(tmp_path: Path, kind: str) -> None:
    theirs = load(write_tiny_encoder(tmp_path / "published", kind)).vectors(TOKENS)
    for form, most in (("F32", 1e-5), ("F16", 5e-3), ("BF16", 5e-2)):
        ours = load(converted(write_encoder_gguf(tmp_path / f"{form}.gguf", kind, form))).vectors(TOKENS)
        assert np.abs(ours - theirs).max() < most


@pytest.mark.parametrize("form", ["Q8_0", "Q4_0"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_vectors_of_quantised_weights_agree_within_their_own_error(tmp_path: Path, kind: str, form: str) -> None:
    exact = load(write_tiny_encoder(tmp_path / "published", kind)).vectors(TOKENS)
    file = write_tiny_encoder(tmp_path / "rounded", kind) / "model.safetensors"
    rounded = {
        name: dequantised(form, rows_of(form, values))
        if values.ndim == 2 and values.dtype == np.float32 and min(values.shape) > 2 and "position" not in name
        else values
        for name, values in load_file(file).items()
    }
    save_file(rounded, file)
    theirs = load(tmp_path / "rounded").vectors(TOKENS)
    ours = load(converted(write_encoder_gguf(tmp_path / "m.gguf", kind, form))).vectors(TOKENS)
    assert rms(ours - theirs) < 0.5 * rms(theirs - exact)


def test_texts_become_the_same_vectors(tmp_path: Path) -> None:
    theirs, ours = (
        load(write_tiny_encoder(tmp_path / "published")),
        load(converted(write_encoder_gguf(tmp_path / "m.gguf", "bert"))),
    )
    for text in TEXTS:
        ids = [model.tokenizer.encode([text], longest=60, truncate=True) for model in (theirs, ours)]
        assert ids[0] == ids[1]
        assert np.abs(ours.vectors(ids[1]) - theirs.vectors(ids[0])).max() < 1e-5
    assert ours.longest == theirs.longest == 64


@pytest.mark.parametrize(("pooling", "name"), [(1, "mean"), (2, "cls"), (3, "lasttoken")])
def test_the_file_says_how_to_pool(tmp_path: Path, pooling: int, name: str) -> None:
    source = write_encoder_gguf(tmp_path / "m.gguf", "nomic_bert", metadata={"nomic-bert.pooling_type": pooling})
    assert load(converted(source)).poolings == (name,)


def test_layers_of_several_forms(tmp_path: Path) -> None:
    """A mixture is written with the form of each layer, and read with it."""
    kind = "nomic_bert"
    wide = encoder_weights(kind)["encoder.layers.0.attn.Wqkv.weight"]
    finer = {"blk.0.attn_qkv.weight": (rows_of("Q8_0", wide), "Q8_0")}
    source = write_encoder_gguf(tmp_path / "m.gguf", kind, "Q4_0", tensors=finer)
    directory = converted(source)
    quantization = json.loads((directory / "config.json").read_text())["quantization"]
    assert quantization["encoder.layers.0.attn.Wqkv"] == {"group_size": 32, "bits": 8}
    assert np.isfinite(load(directory).vectors(TOKENS)).all()


def test_segments_may_have_no_vectors(tmp_path: Path) -> None:
    source = write_encoder_gguf(tmp_path / "m.gguf", "bert", tensors={"token_types.weight": None})
    directory = converted(source)
    assert json.loads((directory / "config.json").read_text())["type_vocab_size"] == 0
    assert np.isfinite(load(directory).vectors(TOKENS)).all()


@pytest.mark.parametrize(
    ("kind", "metadata", "reason"),
    [
        ("bert", {"bert.attention.causal": True}, r"unsupported bert\.attention\.causal"),
        ("bert", {"bert.attention.layer_norm_epsilon": None}, r"lacks bert\.attention\.layer_norm_epsilon"),
        ("nomic_bert", {"nomic-bert.expert_count": 8}, "nomic-bert with a mixture of experts"),
        ("nomic_bert", {"nomic-bert.rope.scaling.type": "linear", "nomic-bert.rope.scaling.factor": 2.0}, "linear"),
        ("bert", {"tokenizer.ggml.model": "plamo2"}, "unsupported tokenizer: plamo2"),
    ],
)
def test_what_is_refused(tmp_path: Path, kind: str, metadata: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConversionError, match=reason):
        converted(write_encoder_gguf(tmp_path / "m.gguf", kind, metadata=metadata))


def test_one_that_ranks_is_refused(tmp_path: Path) -> None:
    head = (np.ones((1, 32), "<f4"), "F32")
    with pytest.raises(ConversionError, match=r"unsupported tensor: cls\.output\.weight"):
        converted(write_encoder_gguf(tmp_path / "m.gguf", "bert", tensors={"cls.output.weight": head}))


def test_words_in_pieces() -> None:
    tokenizer = build_tokenizer(word_metadata())
    encoding = tokenizer.encode("BAbe, zu Bé qq")
    assert encoding.tokens == ["[CLS]", "ba", "##be", "[UNK]", "zu", "be", "[UNK]", "[SEP]"]
    assert encoding.ids[1] == WORDS.index("ba")
    assert tokenizer.decode(encoding.ids) == "babe zu be"


def test_the_marks_around_a_text_have_several_names() -> None:
    metadata = word_metadata()
    for key in ("cls_token_id", "seperator_token_id"):
        del metadata[f"tokenizer.ggml.{key}"]
    named = metadata | {"tokenizer.ggml.bos_token_id": 2, "tokenizer.ggml.eos_token_id": 3}
    assert build_tokenizer(named).encode("ba").tokens == ["[CLS]", "ba", "[SEP]"]
    without = named | {"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": False}
    assert build_tokenizer(without).encode("ba").tokens == ["ba"]


@pytest.mark.parametrize(
    "text", ["What is the capital of France?", "  \ufb01ne  \uff21\uff22 \xbd \u2026", "it's\nx\uff11", ""]
)
def test_unigram_pieces_equal_the_original(text: str) -> None:
    tokenizer = build_tokenizer(unigram_metadata())
    assert tokenizer.encode(text, add_special_tokens=False).ids == unigram_processor().encode(text)
    assert tokenizer.encode(text).tokens[0] == "<s>"
    assert tokenizer.encode(text).tokens[-1] == "</s>"


def test_unigram_vocabularies_have_an_unknown_piece_of_their_own() -> None:
    metadata = unigram_metadata()
    for key in ("unknown_token_id", "bos_token_id", "eos_token_id"):
        del metadata[f"tokenizer.ggml.{key}"]
    tokens = metadata["tokenizer.ggml.tokens"]
    # As T5 has them: what ends a text comes before what is unknown.
    metadata["tokenizer.ggml.tokens"] = ["<pad>", "</s>", "<unk>", *tokens[3:]]
    encoding = build_tokenizer(metadata).encode("the \u732b")
    assert encoding.tokens[-1] == "</s>"
    assert 2 in encoding.ids


def test_a_language_model_that_embeds(tmp_path: Path) -> None:
    """Qwen3-Embedding: its file says that the last token is taken, which is the one that the tokenizer adds."""
    qwen3 = TINY["qwen3"]
    directory = qwen3.write_directory(tmp_path / "published", "F32")
    write_modules(directory, ("lasttoken",))
    own = {"qwen3.pooling_type": 3, "tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": True}
    made = converted(qwen3.write_gguf(tmp_path / "m.gguf", "F32", own))
    ours = load(made)
    assert ours.poolings == ("lasttoken",)
    assert ours.tokenizer.encode(["the"], longest=60, truncate=True)[0][-1] == 2
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((made / name).read_bytes())
    theirs = load(directory).vectors(TOKENS)
    assert np.abs(ours.vectors(TOKENS) - theirs).max() <= 1e-5 * np.abs(theirs).max()
