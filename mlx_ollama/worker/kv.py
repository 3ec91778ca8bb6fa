"""What a model remembers of a prompt: a cache per layer. The only module that knows mlx-lm's kinds of cache.

Arrays of MLX are values: two caches may refer to the same numbers, and whoever writes first gets numbers of its own. So
a copy costs nothing until one of the two goes on.
"""

import copy
from collections.abc import Sequence
from typing import Any, TypeAlias

import mlx.core as mx
from mlx_lm.models.cache import CacheList, KVCache, RotatingKVCache, make_prompt_cache, trim_prompt_cache

Cache: TypeAlias = list[Any]


def new_cache(model: Any) -> Cache:
    """An empty cache of the kind that a model wants."""
    return list(make_prompt_cache(model))


def is_plain(cache: Cache) -> bool:
    """Whether every layer keeps the keys and values of all tokens, and nothing else."""
    return all(type(layer) is KVCache for layer in cache)


def can_merge(cache: Sequence[Any]) -> bool:
    """Whether several of them can decode together."""
    # A list of caches says that it can, whatever it holds.
    return all(can_merge(layer.caches) if isinstance(layer, CacheList) else hasattr(layer, "merge") for layer in cache)


def merge(batch: Cache, rows: int, joining: Sequence[Cache]) -> Cache:
    """The cache of a batch of `rows` that others join. One row alone has a cache of its own kind, as it came."""
    if not rows and len(joining) == 1:
        return joining[0]
    newcomers = [batch, *joining] if rows == 1 else joining
    merged = [layers[0].merge(list(layers)) for layers in zip(*newcomers, strict=True)]
    if rows <= 1:
        return merged
    for layer, other in zip(batch, merged, strict=True):
        layer.extend(other)
    return batch


def extract(batch: Cache, rows: int, row: int) -> Cache:
    """The cache of one row of a batch of `rows`."""
    return batch if rows == 1 else [layer.extract(row) for layer in batch]


def keep(batch: Cache, rows: int, staying: list[int]) -> Cache:
    """The cache of a batch of `rows` of which those at some places stay."""
    if len(staying) == rows:
        return batch
    if len(staying) <= 1:
        return extract(batch, rows, staying[0]) if staying else []
    for layer in batch:
        layer.filter(staying)
    return batch


def can_shorten(cache: Cache) -> bool:
    """Whether a cache can lose its last tokens.

    A sliding window that has begun to slide, and a recurrent state, cannot: what they have forgotten is gone.
    """
    return all(type(layer) is KVCache or (type(layer) is RotatingKVCache and layer.is_trimmable()) for layer in cache)


def copied(cache: Cache, *, without: int = 0) -> Cache:
    """A cache that goes its own way from here, less its last `without` tokens."""
    own = copy.deepcopy(cache)
    if without:
        trim_prompt_cache(own, without)
        for layer in own:
            if type(layer) is KVCache:
                # Nobody shall copy the rest when this one goes on.
                keys, values = layer.keys_and_values()
                layer.state = keys, values, layer.offset
    return own


def settle(caches: Sequence[Cache]) -> None:
    """Compute what has been put off, so that nothing else is kept alive for it."""
    mx.eval([layer.state for cache in caches for layer in cache])


def size_of(cache: Cache) -> int:
    """In bytes."""
    return sum(layer.nbytes for layer in cache)


def read_rows(model: Any, rows: list[list[int]], caches: Sequence[Cache], counts: Sequence[int]) -> None:
    """Read whole prompts in one pass into caches that are plain and empty; `rows` are padded at their ends.

    Nothing that comes later changes what came before. `counts` are the lengths without padding.
    """
    shared = [KVCache() for _ in caches[0]]
    model(mx.array(rows), cache=shared)
    for row, (cache, count) in enumerate(zip(caches, counts, strict=True)):
        for own, layer in zip(cache, shared, strict=True):
            keys, values = (part[row : row + 1, :, :count] for part in (layer.keys, layer.values))
            own.state = mx.contiguous(keys), mx.contiguous(values), count
    settle(caches)


def read(model: Any, tokens: list[int], cache: Cache) -> None:
    """Read tokens that follow what is in the cache."""
    model(mx.array(tokens)[None], cache=cache)
    settle([cache])
