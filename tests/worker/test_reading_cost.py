"""The cost of reading is learnt from passes, whatever their lengths."""

import random

import pytest

from mlx_ollama.worker.reading_cost import SURPRISE, ReadingCost


@pytest.mark.parametrize(("weights", "token"), [(0.05, 0.0025), (0.003, 0.0001), (0.5, 0.001), (0.0, 0.04)])
def test_passes_of_different_lengths_tell_weights_and_tokens_apart(weights: float, token: float) -> None:
    cost, lengths = ReadingCost(), random.Random(1)
    for _ in range(200):
        tokens = lengths.choice([4, 15, 30, 60, 200])
        cost.learn(tokens, weights + token * tokens)
    for tokens in (4, 64, 512):
        assert cost.of(tokens) == pytest.approx(weights + token * tokens, rel=0.1)
    seconds = 3 * weights + 10 * token
    assert cost.affordable(seconds) == pytest.approx((seconds - weights) / token, rel=0.1)


def test_a_deep_prompt_whose_slices_get_shorter_has_dear_tokens_and_not_heavy_weights() -> None:
    cost = ReadingCost(weights=0.05, token=0.002)
    for depth in range(100):
        tokens = int(cost.affordable(0.25))
        took = 0.05 + (0.002 + 0.0001 * depth) * tokens
        assert took <= 0.27
        cost.learn(tokens, took)
    assert cost.weights == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize(("weights", "token"), [(0.02, 0.01), (0.3, 0.045), (0.5, 0.001)])
def test_a_long_first_pass_is_not_taken_for_weights(weights: float, token: float) -> None:
    cost, took = ReadingCost(), []
    cost.learn(64, weights + token * 64)
    for _ in range(10):
        tokens = int(max(4, min(2048, cost.affordable(0.25))))
        took.append(weights + token * tokens)
        cost.learn(tokens, took[-1])
    assert took[-1] <= 1.3 * max(0.25, 2 * weights)


def test_nothing_is_known_at_first() -> None:
    assert ReadingCost().affordable(0.25) == float("inf")


@pytest.mark.parametrize(("tokens", "times"), [(10, SURPRISE), (100, (1 + SURPRISE) / 2)])
def test_a_machine_that_was_busy_elsewhere_is_not_taken_for_a_slow_model(tokens: int, times: float) -> None:
    cost = ReadingCost(weights=0.05, token=0.002)
    before = cost.of(tokens)
    cost.learn(tokens, 60.0)
    # A long pass tells of the tokens, and is believed by half.
    assert cost.of(tokens) == pytest.approx(times * before)
    cost.learn(tokens, before)
    assert cost.of(tokens) == pytest.approx(before)


def test_neither_part_is_ever_negative() -> None:
    cost, noise = ReadingCost(), random.Random(2)
    for _ in range(500):
        cost.learn(noise.choice([1, 8, 64, 2048]), noise.random() ** 4)
        assert cost.weights >= 0
        assert cost.token >= 0
