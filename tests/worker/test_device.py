"""How much of a GPU's memory a worker takes: arithmetic, but for the calls into MLX."""

import mlx.core as mx
import pytest

from mlx_ollama.worker.device import (
    LEAST_POOL_BYTES,
    Device,
    Limits,
    apply,
    limit_memory,
    limits_of,
    recommended_memory,
)

GB = 1 << 30
RECOMMENDED = 48 * GB


@pytest.mark.parametrize(
    ("weights", "share", "limits"),
    [
        (16 * GB, 48 * GB, Limits(wired=20 * GB, memory=48 * GB, pool=8 * GB)),
        (16 * GB, 24 * GB, Limits(wired=20 * GB, memory=24 * GB, pool=2 * GB)),
        (16 * GB, 18 * GB, Limits(wired=18 * GB, memory=18 * GB, pool=GB // 2)),
        (16 * GB, 16 * GB, Limits(wired=16 * GB, memory=16 * GB, pool=LEAST_POOL_BYTES)),
        (16 * GB, 8 * GB, Limits(wired=8 * GB, memory=8 * GB, pool=LEAST_POOL_BYTES)),
        (16 * GB, 96 * GB, Limits(wired=20 * GB, memory=48 * GB, pool=8 * GB)),
        (44 * GB, 48 * GB, Limits(wired=48 * GB, memory=48 * GB, pool=GB)),
    ],
)
def test_limits_keep_to_the_share(weights: int, share: int, limits: Limits) -> None:
    assert limits_of(RECOMMENDED, weights, share) == limits


def test_what_is_recommended() -> None:
    assert recommended_memory({"max_recommended_working_set_size": 7, "memory_size": 9}) == 7
    assert recommended_memory({"memory_size": 9}) == 9
    assert recommended_memory({}) == 0


def test_mlx_is_told() -> None:
    before = mx.set_memory_limit(GB), mx.set_cache_limit(GB)
    try:
        apply(Limits(wired=0, memory=3 * GB, pool=2 * GB))
        assert (mx.set_memory_limit(GB), mx.set_cache_limit(GB)) == (3 * GB, 2 * GB)
        limit_memory(Device("cpu", 0), GB, 5 * GB)
        assert (mx.set_memory_limit(GB), mx.set_cache_limit(GB)) == (GB, GB)
    finally:
        mx.set_memory_limit(before[0])
        mx.set_cache_limit(before[1])
