"""Reading prompts: alone, in slices and together, the caches are the same."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_ollama.worker.load import load
from mlx_ollama.worker.prefill import SHORT_PROMPT_TOKENS, Prefill, Reading

PROMPTS = [[5 + (at * 7 + step * 3) % 400 for step in range(3 + 5 * at)] for at in range(8)]


class Counted:
    """The model, and how many tokens each call had, padding included."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.layers = model.layers
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, tokens: mx.array, cache: Any) -> Any:
        self.calls.append(tokens.shape)
        return self._model(tokens, cache=cache)


@pytest.fixture(scope="module")
def model(tiny_directory: Path) -> Any:
    return load(tiny_directory, device="cpu").model


def _read(model: Any, prompts: list[list[int]], *, most: int = 32, warm: bool = True) -> tuple[list[Reading], Counted]:
    counted = Counted(model)
    prefill = Prefill(counted, budget=10.0, clock=lambda: 0.0)
    if warm:
        prefill._longest_slice = 512
    for at, tokens in enumerate(prompts):
        prefill.add(at, tokens)
    done: list[Reading] = []
    while prefill:
        done += prefill.advance(most)
    return sorted(done, key=lambda reading: reading.id), counted


def test_short_prompts_share_a_pass_and_nothing_else(model: Any) -> None:
    together, counted = _read(model, PROMPTS)
    assert counted.calls == [(len(PROMPTS), len(PROMPTS[-1]) - 1)]
    for reading, tokens in zip(together, PROMPTS, strict=True):
        ((alone,), _) = _read(model, [tokens])
        assert reading.position == len(tokens) - 1
        for ours, theirs in zip(reading.cache, alone.cache, strict=True):
            assert ours.offset == theirs.offset == len(tokens) - 1
            for mine, other in zip(ours.keys_and_values(), theirs.keys_and_values(), strict=True):
                np.testing.assert_allclose(np.array(mine), np.array(other), rtol=1e-3, atol=1e-4)


def test_long_prompts_are_read_alone(model: Any) -> None:
    long = [7] * (SHORT_PROMPT_TOKENS + 2)
    _, counted = _read(model, [long, PROMPTS[0], long, PROMPTS[1], PROMPTS[2]])
    assert max(counted.calls) == (2, len(PROMPTS[2]) - 1)
    assert len(counted.calls) == 4


def test_no_more_at_once_than_there_is_room_for(model: Any) -> None:
    _, counted = _read(model, PROMPTS, most=3)
    assert [rows for rows, _ in counted.calls] == [3, 3, 2]


def test_an_engine_that_does_not_know_its_speed_begins_small(model: Any) -> None:
    _, counted = _read(model, PROMPTS, warm=False)
    assert counted.calls[0][0] * counted.calls[0][1] <= 16
