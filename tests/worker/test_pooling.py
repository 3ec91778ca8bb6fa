import mlx.core as mx
import numpy as np
import pytest

from mlx_ollama.worker.pooling import pool

NOTHING = float("nan")
HIDDEN = [[[1.0, 2.0], [3.0, 6.0], [8.0, 1.0]], [[4.0, 5.0], [NOTHING, 100.0], [100.0, NOTHING]]]
"""Two texts of three tokens and of one; what fills up the second must not count."""


@pytest.mark.parametrize(
    ("poolings", "expected"),
    [
        (["cls"], [[1, 2], [4, 5]]),
        (["lasttoken"], [[8, 1], [4, 5]]),
        (["max"], [[8, 6], [4, 5]]),
        (["mean"], [[4, 3], [4, 5]]),
        (["mean_sqrt_len_tokens"], [[12 / 3**0.5, 9 / 3**0.5], [4, 5]]),
        (["weightedmean"], [[31 / 6, 17 / 6], [4, 5]]),
        (["cls", "mean"], [[1, 2, 4, 3], [4, 5, 4, 5]]),
    ],
)
def test_poolings(poolings: list[str], expected: list[list[float]]) -> None:
    mx.set_default_device(mx.cpu)
    pooled = pool(mx.array(HIDDEN).astype(mx.float16), [3, 1], poolings)
    assert pooled.dtype == mx.float32
    assert np.allclose(np.array(pooled), expected)
