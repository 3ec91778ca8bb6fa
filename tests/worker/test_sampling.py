"""Samplers on known distributions."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_ollama.protocol import Sampling
from mlx_ollama.worker.sampling import greedy, make_processors, make_sampler
from tests.worker.test_engine import GREEDY

PROBABILITIES = [0.4, 0.3, 0.15, 0.1, 0.05]
LOGPROBS = mx.log(mx.array([PROBABILITIES]))
DRAWS = 3000


def _sampling(**changes: Any) -> Sampling:
    return Sampling(**{**GREEDY, "temperature": 1.0, "top_k": 0, "top_p": 1.0, **changes})


def _frequencies(sampling: Sampling) -> Any:
    sampler = make_sampler(sampling)
    drawn = [int(np.array(sampler(LOGPROBS))[0]) for _ in range(DRAWS)]
    return np.bincount(drawn, minlength=len(PROBABILITIES)) / DRAWS


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, PROBABILITIES),
        ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0, 0]),
        ({"top_p": 0.6}, [4 / 7, 3 / 7, 0, 0, 0]),
        ({"top_p": 0.01}, [1, 0, 0, 0, 0]),
        ({"top_p": 0.0}, [1, 0, 0, 0, 0]),
        ({"min_p": 0.3}, [0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0, 0]),
        ({"min_p": 5.0}, [1, 0, 0, 0, 0]),
        ({"temperature": 0.5}, [0.16 / 0.285, 0.09 / 0.285, 0.0225 / 0.285, 0.01 / 0.285, 0.0025 / 0.285]),
        # The expected surprise is 1.39: those of 0.3 (1.20), 0.15 (1.90) and 0.4 (0.92) are nearest, in this order.
        ({"typical_p": 0.2}, [0, 1, 0, 0, 0]),
        ({"typical_p": 0.5}, [4 / 7, 3 / 7, 0, 0, 0]),
        ({"typical_p": 0.0}, [0, 1, 0, 0, 0]),
        # top-p looks at what top-k has left: 0.4/0.85 and 0.3/0.85 reach 0.8, the third is out.
        ({"top_k": 3, "top_p": 0.8}, [4 / 7, 3 / 7, 0, 0, 0]),
    ],
)
def test_distributions(changes: dict[str, Any], expected: list[float]) -> None:
    assert _frequencies(_sampling(seed=3, **changes)) == pytest.approx(expected, abs=0.035)


def test_greedy_is_one_function() -> None:
    assert make_sampler(_sampling(temperature=0)) is greedy
    assert make_sampler(_sampling(top_k=1)) is greedy


def test_the_key_depends_on_seed_and_position_alone() -> None:
    first, second, other = (make_sampler(_sampling(seed=seed)) for seed in (5, 5, 6))
    wide = mx.zeros((1, 1000))
    runs = [[int(np.array(sampler(wide))[0]) for _ in range(20)] for sampler in (first, second, other)]
    assert runs[0] == runs[1] != runs[2]
    assert len(set(runs[0])) > 15


def test_penalties_follow_their_formula() -> None:
    (penalties,) = make_processors(
        _sampling(repeat_last_n=4, repeat_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25)
    )
    logits = mx.array([[4.0, -4.0, 1.0, 1.0]])
    changed = np.array(penalties([3, 0, 0, 1, 2], logits))[0]
    assert list(changed) == [2.0 - 0.5 - 2 * 0.25, -8.0 - 0.75, 0.5 - 0.75, 1.0]


def test_a_window_wider_than_everything_is_everything() -> None:
    (penalties,) = make_processors(_sampling(repeat_last_n=2**62, repeat_penalty=2.0))
    assert np.array(penalties([1, 1], mx.array([[4.0, 4.0]]))).tolist() == [[4.0, 2.0]]


def test_no_penalties_for_the_defaults() -> None:
    assert make_processors(_sampling()) == []
    assert make_processors(_sampling(repeat_penalty=1.5, repeat_last_n=0)) == []
    assert len(make_processors(_sampling(repeat_penalty=1.5, repeat_last_n=-1))) == 1
