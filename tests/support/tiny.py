"""Model directories for tests: tiny ones with random weights, and dense copies of others."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mlx_ollama.worker.load import load

VOCABULARY = 512
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def write_tiny_model(
    directory: Path,
    *,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    head: int = 0,
    vocabulary: int = VOCABULARY,
    seed: int = 0,
    scale: float = 3.0,
    ends: bool = False,
    context: int = 8192,
) -> Path:
    """A llama with an untied head and scaled random weights, so that its greedy text varies.

    `head` is the size of a head if it is not the usual one: large ones make a cache large for little work. `ends` False
    forbids the end token, so that every answer is as long as it is asked to be.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_tokenizer(directory, vocabulary)
    config: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": hidden * 3,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "head_dim": head or hidden // heads,
        "rms_norm_eps": 1e-5,
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "eos_token_id": 2,
        "bos_token_id": 1,
        "torch_dtype": "float32",
    }
    model = llama.Model(llama.ModelArgs.from_dict(config))
    mx.random.seed(seed)
    weights = {}
    for name, value in tree_flatten(model.parameters()):
        if value.ndim == 1:
            weights[name] = mx.ones(value.shape)
        else:
            weights[name] = mx.random.normal(value.shape) * (scale / value.shape[-1] ** 0.5)
    if not ends:
        weights["lm_head.weight"] = _without_rows(weights["lm_head.weight"], range(len(SPECIALS)))
    mx.save_safetensors(str(directory / "model.safetensors"), weights, metadata={"format": "mlx"})
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def widened(source: Path, directory: Path) -> Path:
    """A copy of a model directory in dense float32, for engines that do not widen quantised weights on a CPU."""
    loaded = load(source, device="cpu")
    shutil.copytree(source, directory, ignore=shutil.ignore_patterns("model*", "gguf.json"))
    weights = dict(tree_flatten(loaded.model.parameters()))
    mx.save_safetensors(str(directory / "model.safetensors"), weights, metadata={"format": "mlx"})
    config = json.loads((source / "config.json").read_text())
    plain = {key: value for key, value in config.items() if not key.startswith("quantization")}
    (directory / "config.json").write_text(json.dumps(plain))
    return directory


def write_tokenizer(directory: Path, vocabulary: int = VOCABULARY) -> None:
    """A byte-level BPE, trained on words made by a seeded generator, enough of them for a wide vocabulary."""
    generator = random.Random(7)
    syllables = [a + b for a in "bcdfghjklmnprstvz" for b in "aeiou"]
    words = ["".join(generator.choices(syllables, k=generator.randint(1, 4))) for _ in range(max(4000, vocabulary))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(words)], trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "chat_template": CHATML,
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def _without_rows(weight: mx.array, rows: range) -> mx.array:
    """Make tokens never the likeliest: rows of a head that point nowhere lose against any that points somewhere."""
    changed = np.array(weight)
    changed[list(rows)] = 0
    return mx.array(changed)
