"""Who decodes with whom: short streams are not padded to the length of a very long one."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import ArraysCache, CacheList, ChunkedKVCache, KVCache

from mlx_ollama.worker.batch import Joining, make_batch
from mlx_ollama.worker.groups import FREE_TOKENS, Groups, fits
from mlx_ollama.worker.kv import can_merge, new_cache, read
from mlx_ollama.worker.load import load
from mlx_ollama.worker.sampling import Choice, Sampler


@pytest.mark.parametrize(
    ("lengths", "new", "wanted"),
    [
        ([], 100_000, True),
        ([300] * 31, 300, True),
        ([100] * 15, 500, True),
        ([30_000], 200, False),
        ([30_000], 29_000, True),
        ([200] * 8, 30_000, False),
        ([20_000, 18_000], 9_000, True),
        ([FREE_TOKENS // 2], 1, True),
    ],
)
def test_memory_is_not_multiplied(lengths: list[int], new: int, *, wanted: bool) -> None:
    assert fits(lengths, new) is wanted


@pytest.fixture(scope="module")
def loaded(tiny_directory: Path) -> Any:
    return load(tiny_directory, device="cpu")


def _joining(model: Any, tokens: list[int], limit: int) -> Joining:
    cache = new_cache(model)
    read(model, tokens[:-1], cache)
    return Joining(tokens, cache, Sampler(Choice()), [], limit)


def _run(batch: Any, streams: list[Joining]) -> list[list[int]]:
    said: dict[int, list[int]] = {handle: [] for handle in batch.join(streams)}
    while batch:
        for sampled in batch.step():
            said[sampled.handle].append(sampled.token)
    return list(said.values())


def test_a_very_long_stream_decodes_beside_short_ones(loaded: Any) -> None:
    batch = make_batch(loaded.model, loaded.eos_token_ids)
    assert isinstance(batch, Groups)
    long = [5 + at * 7 % 400 for at in range(FREE_TOKENS)]
    short = [[9 + seed, 20, 30 + seed, 41] for seed in range(4)]
    streams = [_joining(loaded.model, long, 6), *(_joining(loaded.model, tokens, 12) for tokens in short)]
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    together = _run(batch, streams)
    alone = [_run(make_batch(loaded.model, loaded.eos_token_ids), [_joining(loaded.model, t, 12)]) for t in short]
    assert together[1:] == [tokens for (tokens,) in alone]
    assert [len(tokens) for tokens in together] == [6, 12, 12, 12, 12]
    assert len(batch._groups) == 1, "a batch that is empty is not kept"
    # Rows times longest would be five times the long one's cache.
    assert mx.get_peak_memory() - before < 4 * sum(layer.nbytes for layer in streams[0].cache)


def test_a_stream_that_leaves_takes_its_tokens_along(loaded: Any) -> None:
    batch = make_batch(loaded.model, loaded.eos_token_ids)
    handles = batch.join([_joining(loaded.model, [9, 20, 30, 41], 20), _joining(loaded.model, [11, 12, 13], 20)])
    said = [sampled.token for _ in range(4) for sampled in batch.step() if sampled.handle == handles[0]]
    left = batch.leave(handles[0])
    assert left is not None
    assert list(left.tokens) == [9, 20, 30, 41, *said]
    assert {layer.offset for layer in left.cache} == {len(left.tokens)}
    assert batch.leave(handles[0]) is None
    assert len(batch) == 1


def test_a_list_of_caches_merges_only_if_each_of_them_does() -> None:
    assert can_merge([CacheList(ArraysCache(size=2), KVCache())])
    assert not can_merge([KVCache(), CacheList(KVCache(), ChunkedKVCache(8))])
