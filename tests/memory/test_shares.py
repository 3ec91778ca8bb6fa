"""Several workers on one GPU: what each is told to take of its memory."""

from pathlib import Path

import pytest

from mlx_ollama.memory.shares import divided, shares_of
from mlx_ollama.models.names import ModelName
from mlx_ollama.models.store import StoredModel
from mlx_ollama.models.weights import Weights
from mlx_ollama.protocol import Ready
from mlx_ollama.resident import Resident
from tests.memory.world import GB


@pytest.mark.parametrize(
    ("total", "weights", "shares"),
    [
        (40, [10], [40]),
        (40, [10, 20], [15, 25]),
        (40, [10, 20, 4], [12, 22, 6]),
        (40, [20, 20], [20, 20]),
        (40, [30, 50], [15, 25]),
        (40, [], []),
    ],
)
def test_what_weights_leave_is_divided_equally(total: int, weights: list[int], shares: list[int]) -> None:
    assert divided(total, weights) == shares
    assert sum(shares) in (total, 0)


def _resident(weights: int, gpu: int, *, is_loading: bool = False) -> Resident:
    at = Weights.at(Path("/nowhere"), str(weights))
    resident = Resident(StoredModel(ModelName.parse("x"), "d", 0, 0, at, (), {}, "", "", {}, (), ()), 300.0)
    if is_loading:
        resident.promised = weights
    else:
        resident.ready = Ready("gpu" if gpu else "cpu", weights, gpu, 4096)
    return resident


def test_a_share_is_what_others_leave_loaded_or_loading() -> None:
    first = _resident(10 * GB, 40 * GB)
    assert shares_of([first]) == [(first, 40 * GB)]
    coming = _resident(20 * GB, 0, is_loading=True)
    assert shares_of([first, coming]) == [(first, 15 * GB)]
    second = _resident(20 * GB, 40 * GB)
    assert shares_of([first, second]) == [(first, 15 * GB), (second, 25 * GB)]


def test_on_a_cpu_there_is_nothing_to_share() -> None:
    assert shares_of([_resident(10 * GB, 0)]) == []
