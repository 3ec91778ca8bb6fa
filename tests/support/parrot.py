"""A model that knows one answer by heart: a real llama whose head points from each token to the next."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from tests.support.tiny import write_tokenizer

_HIDDEN = 64
_END = "<|im_end|>"


def write_parrot(
    directory: Path,
    template: str,
    answer: Sequence[str],
    cues: Sequence[str],
    *,
    knows: Sequence[str] = (),
    others: Mapping[str, Sequence[str]] | None = None,
    layers: int = 1,
) -> Path:
    """Writes a model that says `answer` to a prompt whose last token is the last one of one of `cues`.

    Each part of the answer becomes a token of its own; none may come twice. `knows` are more tokens of its vocabulary,
    `others` its answers to other cues, each of which is a token, too. `layers` do nothing but take their time.
    """
    directory.mkdir(parents=True)
    write_tokenizer(directory)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    others = others or {}
    parts = [*answer, *knows, *others, *(part for other in others.values() for part in other)]
    tokenizer.add_tokens([AddedToken(part, special=True) for part in parts])
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)
    config = {
        "model_type": "llama",
        "hidden_size": _HIDDEN,
        "num_hidden_layers": layers,
        "intermediate_size": _HIDDEN,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "eos_token_id": tokenizer.convert_tokens_to_ids(_END),
        "torch_dtype": "float32",
    }
    said = [(cue, answer) for cue in cues] + list(others.items())
    chains = [[tokenizer.encode(cue)[-1], *tokenizer.convert_tokens_to_ids([*text, _END])] for cue, text in said]
    steps = sorted({step for chain in chains for step in pairwise(chain)})
    mx.save_safetensors(str(directory / "model.safetensors"), _weights(config, steps), metadata={"format": "mlx"})
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def _weights(config: dict[str, object], steps: list[tuple[int, int]]) -> dict[str, mx.array]:
    """Layers that add nothing, and a head that answers a token's own vector."""
    model = llama.Model(llama.ModelArgs.from_dict(config))
    mx.random.seed(0)
    weights = {
        name: mx.ones(value.shape) if value.ndim == 1 else mx.zeros(value.shape)
        for name, value in tree_flatten(model.parameters())
    }
    vectors = mx.random.normal(weights["model.embed_tokens.weight"].shape)
    weights["model.embed_tokens.weight"] = vectors
    head = weights["lm_head.weight"]
    for token, next_ in steps:
        head[next_] += vectors[token]
    weights["lm_head.weight"] = head
    return weights
