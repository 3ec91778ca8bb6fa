"""Gemma 2 as it was published: mlx-lm's model lacks the windows, and cannot answer several conversations at once."""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models import gemma2
from mlx_lm.models.base import create_attention_mask
from mlx_lm.models.cache import KVCache, RotatingKVCache


@dataclass
class ModelArgs(gemma2.ModelArgs):  # type: ignore[misc]  # mlx-lm has no types
    """`sliding_window`: how many tokens the layers with even numbers look back."""

    sliding_window: int = 4096


class Model(gemma2.Model):  # type: ignore[misc]  # see above
    """mlx-lm's Gemma 2, with another body."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        self.model = _Body(args)

    def make_cache(self) -> list[Any]:
        window = self.args.sliding_window
        return [KVCache() if layer % 2 else RotatingKVCache(max_size=window) for layer in range(len(self.layers))]


class _Body(gemma2.GemmaModel):  # type: ignore[misc]  # see above
    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        for layer in self.layers:
            layer.self_attn = _Attention(args)

    def __call__(self, inputs: mx.array, cache: list[Any] | None = None) -> mx.array:
        hidden = self.embed_tokens(inputs) * self.args.hidden_size**0.5
        caches = cache or [None] * len(self.layers)
        # By the number of a layer: those with even ones have windows.
        masks = [
            create_attention_mask(hidden, caches[0], window_size=self.args.sliding_window, return_array=True),
            create_attention_mask(hidden, caches[min(1, len(caches) - 1)], return_array=True),
        ]
        for number, (layer, own) in enumerate(zip(self.layers, caches, strict=True)):
            hidden = layer(hidden, masks[number % 2], own)
        normed: mx.array = self.norm(hidden)
        return normed


class _Attention(gemma2.Attention):  # type: ignore[misc]  # see above
    def __call__(self, x: mx.array, mask: mx.array | None = None, cache: Any = None) -> mx.array:
        """The heads that share a key have a dimension of their own, which a mask of several texts lacks."""
        if mask is not None and mask.ndim > 2 and self.repeats > 1:  # noqa: PLR2004
            mask = mx.expand_dims(mask, 2)
        attended: mx.array = super().__call__(x, mask, cache)
        return attended
