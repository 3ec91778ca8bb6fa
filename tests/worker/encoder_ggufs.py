"""Tiny encoders as GGUF files; tensors take their names from the `gguf` package."""

import functools
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from tests.support.embedders import HEADS, HIDDEN, LAYERS, POSITIONS, WIDE, WORDS, encoder_config, encoder_weights
from tests.worker.gguf_files import CORPUS, write_file
from tests.worker.quantised import Array, rows_of

ARCHITECTURES = {"bert": "bert", "xlm-roberta": "bert", "nomic_bert": "nomic-bert"}
"""llama.cpp's names for them."""


def write_encoder_gguf(
    path: Path,
    kind: str,
    form: str = "F32",
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, tuple[Array, str] | None] | None = None,
) -> Path:
    """The encoder of `tests.support.embedders`, its matrices as `form`. What is given more replaces, or leaves out."""
    architecture = ARCHITECTURES[kind]
    names = gguf.get_tensor_name_map(
        next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture), LAYERS
    )
    own = {
        names.get_name(name, try_suffixes=(".weight", ".bias")): stored(name, values, form)
        for name, values in published(kind).items()
    }
    return write_file(path, architecture, {**encoder_metadata(kind), **(metadata or {})}, {**own, **(tensors or {})})


def published(kind: str) -> dict[str, Array]:
    """The weights; XLM-RoBERTa's without the positions that no token has, which a file does not keep."""
    weights = dict(encoder_weights(kind))
    if kind == "xlm-roberta":
        name = "embeddings.position_embeddings.weight"
        weights[name] = weights[name][2:]
    return weights


def stored(name: str, values: Array, form: str) -> tuple[Array, str]:
    if values.ndim == 1:
        return values, "F32"
    # As quantisers do, which leave small tables of vectors as they are.
    kind = "F32" if form not in ("F16", "BF16") and ("position" in name or "token_type" in name) else form
    return rows_of(kind, values), kind


def encoder_metadata(kind: str) -> dict[str, Any]:
    architecture = ARCHITECTURES[kind]
    return {
        "general.file_type": 1,
        f"{architecture}.block_count": LAYERS,
        f"{architecture}.context_length": POSITIONS,
        f"{architecture}.embedding_length": HIDDEN,
        f"{architecture}.feed_forward_length": WIDE,
        f"{architecture}.attention.head_count": HEADS,
        f"{architecture}.attention.layer_norm_epsilon": 1e-5,
        f"{architecture}.attention.causal": False,
        f"{architecture}.pooling_type": 1,
        **({f"{architecture}.rope.freq_base": 1000.0} if kind == "nomic_bert" else {}),
        **(unigram_metadata() if kind == "xlm-roberta" else word_metadata()),
    }


def word_metadata() -> dict[str, Any]:
    """The tokenizer of `write_word_tokenizer`."""
    words = [*WORDS[:4], *("\u2581" + word for word in WORDS[4:]), *WORDS[4:]]
    assert len(words) == encoder_config("bert")["vocab_size"]
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": [3] * 4 + [1] * (len(words) - 4),
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
    }


@functools.cache
def unigram_processor() -> Any:
    """SentencePiece's other kind, with the usual table of characters, as its own library trains it."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        model_type="unigram",
        vocab_size=80,
        character_coverage=0.98,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def unigram_metadata() -> dict[str, Any]:
    processor = unigram_processor()
    ids = range(processor.vocab_size())
    proto: Any = sentencepiece_model_pb2
    model = proto.ModelProto.FromString(processor.serialized_model_proto())
    table = np.frombuffer(model.normalizer_spec.precompiled_charsmap, np.uint8)
    return {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [processor.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": [processor.get_score(i) for i in ids],
        "tokenizer.ggml.token_type": [2, 3, 3, *([1] * (len(ids) - 3))],
        "tokenizer.ggml.precompiled_charsmap": [int(value) for value in table],
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": True,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": True,
    }
