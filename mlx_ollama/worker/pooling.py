"""Many vectors of a text, one per token, made into one."""

from collections.abc import Callable, Mapping, Sequence

import mlx.core as mx


def pool(hidden: mx.array, lengths: Sequence[int], poolings: Sequence[str]) -> mx.array:
    """One float32 vector per text (texts, width times number of `poolings`).

    `hidden` is (texts, tokens, width), filled up at the ends; `lengths` count the tokens that are no filling, at least
    one; `poolings` are names of `models.embedder.POOLINGS`, whose results stand side by side.
    """
    hidden = hidden.astype(mx.float32)
    counts = mx.array(list(lengths))
    present = (mx.arange(hidden.shape[1])[None] < counts[:, None])[..., None]
    return mx.concatenate([_POOLS[name](hidden, counts, present) for name in poolings], axis=-1)


def _cls(hidden: mx.array, counts: mx.array, present: mx.array) -> mx.array:
    return hidden[:, 0]


def _last(hidden: mx.array, counts: mx.array, present: mx.array) -> mx.array:
    return hidden[mx.arange(hidden.shape[0]), counts - 1]


def _max(hidden: mx.array, counts: mx.array, present: mx.array) -> mx.array:
    return mx.where(present, hidden, -mx.inf).max(axis=1)


def _mean(hidden: mx.array, counts: mx.array, present: mx.array) -> mx.array:
    return _sum(hidden, present) / counts[:, None]


def _mean_by_root(hidden: mx.array, counts: mx.array, present: mx.array) -> mx.array:
    return _sum(hidden, present) / mx.sqrt(counts[:, None])


def _mean_by_position(hidden: mx.array, counts: mx.array, present: mx.array) -> mx.array:
    """Later tokens weigh more, the first one 1, the second 2 and so on."""
    weights = mx.arange(1, hidden.shape[1] + 1)[None, :, None]
    return _sum(hidden * weights, present) / _sum(weights, present)


def _sum(hidden: mx.array, present: mx.array) -> mx.array:
    # `where`, not a product: what stands in the filling may be no number.
    return mx.where(present, hidden, 0).sum(axis=1)


_POOLS: Mapping[str, Callable[[mx.array, mx.array, mx.array], mx.array]] = {
    "cls": _cls,
    "lasttoken": _last,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _mean_by_position,
}
