"""BERT and its near kin in MLX: token ids in, one vector per token out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn

from mlx_ollama.errors import LoadFailed
from mlx_ollama.worker import cpu_math

_ACTIVATIONS: Mapping[str, Callable[[mx.array], mx.array]] = {
    "gelu": nn.gelu,
    "gelu_new": nn.gelu_approx,
    "gelu_pytorch_tanh": nn.gelu_approx,
    "relu": nn.relu,
    "silu": nn.silu,
}
_PAD_BEFORE_POSITIONS = ("roberta", "xlm-roberta", "camembert")
"""Families that number positions from behind their padding token's id."""

_OTHER_WORDS: Mapping[str, Mapping[str, str]] = {
    "distilbert": {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
    },
    "nomic_bert": {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        # Beyond these it would have to stretch its rotation, which we do not.
        "max_position_embeddings": "max_trained_positions",
        "layer_norm_eps": "layer_norm_epsilon",
    },
}
"""What some families call BERT's settings in config.json; newer files may have BERT's own words all the same."""

_ROTARY = "nomic_bert"
_USUAL_BASE = 1000.0


@dataclass(frozen=True)
class Shape:
    """An encoder's sizes; `types` is 0 where segments have no vectors, `first_position` that of the first token.

    With a `rotary_base`, positions rotate queries and keys and have no vectors, feed-forward steps have a gate, and
    linear layers no biases.
    """

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    feed_forward: int
    positions: int
    first_position: int
    types: int
    epsilon: float
    activation: str
    rotary_base: float | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Shape":
        """Read config.json, in BERT's words or those of its kin.

        Raises:
            LoadFailed: for what is missing, or is no encoder that we have.
        """
        kind = config.get("model_type")
        if config.get("position_embedding_type", "absolute") != "absolute":
            raise LoadFailed(f"{kind} models with relative positions are not supported")
        words = {name: config[word] for name, word in _OTHER_WORDS.get(str(kind), {}).items() if word in config}
        config = {**config, **words}
        rotary = kind == _ROTARY
        try:
            shape = cls(
                vocabulary=int(config["vocab_size"]),
                hidden=int(config["hidden_size"]),
                layers=int(config["num_hidden_layers"]),
                heads=int(config["num_attention_heads"]),
                feed_forward=int(config["intermediate_size"]),
                positions=int(config["max_position_embeddings"]),
                first_position=int(config.get("pad_token_id", 1)) + 1 if kind in _PAD_BEFORE_POSITIONS else 0,
                types=0 if kind == "distilbert" else int(config.get("type_vocab_size", 2)),
                epsilon=float(config.get("layer_norm_eps", 1e-12)),
                activation="silu" if rotary else str(config.get("hidden_act", "gelu")),
                rotary_base=_rotary_base(config) if rotary else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LoadFailed(f"config.json does not describe a {kind} model: {error}") from error
        if shape.activation not in _ACTIVATIONS:
            raise LoadFailed(f"the activation {shape.activation} is not supported")
        return shape

    @property
    def longest(self) -> int:
        """The most tokens that have a position."""
        return self.positions - self.first_position


class Layer(nn.Module):  # type: ignore[misc]  # mlx has no types here
    """Attention and a feed-forward step, each added to what came in and normed after."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        hidden, wide, epsilon = shape.hidden, shape.feed_forward, shape.epsilon
        bias = shape.rotary_base is None
        self.query, self.key, self.value, self.attended = (nn.Linear(hidden, hidden, bias=bias) for _ in range(4))
        self.attention_norm = nn.LayerNorm(hidden, eps=epsilon)
        self.widen, self.narrow = nn.Linear(hidden, wide, bias=bias), nn.Linear(wide, hidden, bias=bias)
        if shape.rotary_base is not None:
            self.gate = nn.Linear(hidden, wide, bias=bias)
        self.norm = nn.LayerNorm(hidden, eps=epsilon)
        self._heads, self._rotary_base = shape.heads, shape.rotary_base
        on_cpu = mx.default_device() == mx.Device(mx.cpu)
        self._activation = cpu_math.gelu if on_cpu and shape.activation == "gelu" else _ACTIVATIONS[shape.activation]
        self._attention = cpu_math.attention if on_cpu else mx.fast.scaled_dot_product_attention

    def __call__(self, hidden: mx.array, mask: mx.array | None) -> mx.array:
        """`hidden` is (texts, tokens, width); `mask` broadcasts to (texts, heads, tokens, tokens)."""
        hidden = self.attention_norm(hidden + self.attended(self._attend(hidden, mask)))
        normed: mx.array = self.norm(hidden + self.narrow(self._wide(hidden)))
        return normed

    def _wide(self, hidden: mx.array) -> mx.array:
        wide: mx.array = self.widen(hidden)
        return self._activation(wide) if self._rotary_base is None else wide * self._activation(self.gate(hidden))

    def _attend(self, hidden: mx.array, mask: mx.array | None) -> mx.array:
        texts, tokens, width = hidden.shape

        def by_head(projected: mx.array) -> mx.array:
            return projected.reshape(texts, tokens, self._heads, -1).transpose(0, 2, 1, 3)

        queries, keys, values = (by_head(part(hidden)) for part in (self.query, self.key, self.value))
        size = width // self._heads
        if self._rotary_base is not None:
            queries, keys = (
                mx.fast.rope(rows, size, traditional=False, base=self._rotary_base, scale=1.0, offset=0)
                for rows in (queries, keys)
            )
        scale = size**-0.5
        mixed = self._attention(queries, keys, values, scale=scale, mask=mask)
        return mixed.transpose(0, 2, 1, 3).reshape(texts, tokens, width)


class Encoder(nn.Module):  # type: ignore[misc]  # see above
    """The whole stack; every token sees every other one of its text."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.words = nn.Embedding(shape.vocabulary, shape.hidden)
        if shape.rotary_base is None:
            self.positions = nn.Embedding(shape.positions, shape.hidden)
        if shape.types:
            self.types = nn.Embedding(shape.types, shape.hidden)
        self.norm = nn.LayerNorm(shape.hidden, eps=shape.epsilon)
        self.layers = [Layer(shape) for _ in range(shape.layers)]
        self._shape = shape

    def __call__(self, tokens: mx.array, present: mx.array | None) -> mx.array:
        """Vectors (texts, tokens, width) of `tokens` (texts, tokens), which are filled up at their ends.

        `present`, of the same shape, is false for the filling; None where there is none.
        """
        hidden: mx.array = self.words(tokens)
        if self._shape.rotary_base is None:
            first = self._shape.first_position
            hidden = hidden + self.positions(mx.arange(first, first + tokens.shape[1]))
        if self._shape.types:
            hidden = hidden + self.types.weight[0]
        hidden = self.norm(hidden)
        mask = None if present is None else present[:, None, None, :]
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return hidden


def _rotary_base(config: Mapping[str, Any]) -> float:
    """Raises KeyError, TypeError, ValueError or AttributeError for what is no such setting."""
    if config.get("rotary_emb_fraction", 1.0) != 1.0 or config.get("rotary_emb_interleaved") or config.get("prenorm"):
        raise ValueError("a part of each head that is rotated, pairs of neighbours, and norms before are not supported")
    parameters = config.get("rope_parameters") or {}
    return float(parameters.get("rope_theta", config.get("rotary_emb_base", _USUAL_BASE)))
