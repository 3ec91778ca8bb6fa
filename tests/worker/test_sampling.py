"""Samplers on known distributions."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_ollama.protocol import Sampling
from mlx_ollama.worker.sampling import Choice, likeliest, make_processors, make_sampler, sample
from tests.support.greedy import GREEDY

PROBABILITIES = [0.4, 0.3, 0.15, 0.1, 0.05]
LOGPROBS = mx.log(mx.array([PROBABILITIES]))
DRAWS = 3000


def _sampling(**changes: Any) -> Sampling:
    return Sampling(**{**GREEDY, "temperature": 1.0, "top_k": 0, "top_p": 1.0, **changes})


def _frequencies(sampling: Sampling) -> Any:
    sampler = make_sampler(sampling)
    drawn = [int(np.array(sample([sampler], LOGPROBS))[0]) for _ in range(DRAWS)]
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
        # The expected surprise is 1.39: those of 0.3 (1.20), 0.4 (0.92) and 0.15 (1.90) are nearest, in this order.
        ({"typical_p": 0.2}, [0, 1, 0, 0, 0]),
        ({"typical_p": 0.5}, [4 / 7, 3 / 7, 0, 0, 0]),
        ({"typical_p": 0.0}, [0, 1, 0, 0, 0]),
        # top-p looks at what top-k has left: 0.4/0.85 and 0.3/0.85 reach 0.8, the third is out.
        ({"top_k": 3, "top_p": 0.8}, [4 / 7, 3 / 7, 0, 0, 0]),
    ],
)
def test_distributions(changes: dict[str, Any], expected: list[float]) -> None:
    assert _frequencies(_sampling(seed=3, **changes)) == pytest.approx(expected, abs=0.035)


def test_whoever_is_greedy_chooses_alike() -> None:
    assert make_sampler(_sampling(temperature=0, top_p=0.5)).choice == make_sampler(_sampling(top_k=1)).choice
    assert Choice().is_greedy


def test_a_row_is_sampled_as_if_it_were_alone() -> None:
    changes: list[dict[str, Any]] = [{"seed": 1}, {"seed": 2}, {"temperature": 0}, {"seed": 1}, {"seed": 1, "top_k": 9}]
    changes += [{"seed": seed, "typical_p": 0.7, "top_p": 0.9, "min_p": 0.01} for seed in range(2**64 - 2, 2**64)]
    logits = 3 * mx.random.normal((len(changes), 500), key=mx.random.key(7))
    together, alone = ([make_sampler(_sampling(**change)) for change in changes] for _ in range(2))
    for _ in range(20):
        tokens = np.array(sample(together, logits)).tolist()
        assert tokens == [int(np.array(sample([sampler], logits[at : at + 1]))[0]) for at, sampler in enumerate(alone)]


@pytest.mark.parametrize(("min_p", "expected"), [(0.0, {1, 2}), (0.7, {1, 2}), (0.8, {1})])
def test_min_p_looks_at_what_typical_has_left(min_p: float, expected: set[int]) -> None:
    """The expected surprise is 1.66: those of 0.2 (1.61) and 0.15 (1.90) are nearest, and the likeliest is out."""
    choice = Choice(temperature=1.0, top_k=0, typical_p=0.3, min_p=min_p)
    logits = mx.broadcast_to(mx.log(mx.array([0.35, 0.2, 0.15, 0.1, 0.1, 0.1])), (100, 6))
    assert set(np.array(choice(logits, range(100))).tolist()) == expected


@pytest.mark.parametrize("kind", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize(
    "changes", [{"top_p": 0.9}, {"top_k": 64, "top_p": 0.5}, {"typical_p": 0.9}, {"min_p": 0.2}, {"top_p": 0.99}]
)
def test_narrow_logits_are_cut_where_wide_ones_are(kind: mx.Dtype, changes: dict[str, Any]) -> None:
    """Sums of many small numbers stand still in half precision, and would leave in what is to be cut off."""
    narrow = mx.random.permutation(mx.linspace(-1, 1, 3000), key=mx.random.key(5))[None].astype(kind)
    rows = mx.broadcast_to(narrow, (100, narrow.shape[-1]))

    def drawn(logits: mx.array) -> Any:
        return np.array(sample([make_sampler(_sampling(seed=seed, **changes)) for seed in range(100)], logits))

    assert np.array_equal(drawn(rows), drawn(rows.astype(mx.float32)))


def test_the_key_depends_on_seed_and_position_alone() -> None:
    first, second, other = (make_sampler(_sampling(seed=seed)) for seed in (5, 5, 6))
    wide = mx.zeros((1, 1000))
    runs = [[int(np.array(sample([sampler], wide))[0]) for _ in range(20)] for sampler in (first, second, other)]
    assert runs[0] == runs[1] != runs[2]
    assert len(set(runs[0])) > 15


@pytest.mark.parametrize("size", [500, 9000, 32_000])
def test_the_likeliest_of_a_wide_vocabulary(size: int) -> None:
    logits = 3 * mx.random.normal((4, size), key=mx.random.key(size))
    # All but a few forbidden, as by a grammar; and the best ones side by side.
    logits[1, 7:] = -mx.inf
    logits[2, 100:130] = 50 + mx.arange(30)
    for count in (1, 40, 64):
        ids, values = likeliest(logits, count)
        expected = -np.sort(-np.array(logits), axis=-1)[:, :count]
        assert np.array_equal(np.array(values), expected)
        finite = np.isfinite(expected)
        assert np.array_equal(
            np.take_along_axis(np.array(logits), np.array(ids) * finite, -1)[finite], expected[finite]
        )


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
