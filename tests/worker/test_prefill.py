"""Reading prompts: alone, in slices and together, the caches are the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_ollama.worker.load import load
from mlx_ollama.worker.prefill import FIRST_PASS_TOKENS, SHORT_PROMPT_TOKENS, Prefill, Reading
from mlx_ollama.worker.prefix_choice import LeastRecentlyUsed, Remembered
from mlx_ollama.worker.prefixes import Prefixes
from mlx_ollama.worker.reading_cost import ReadingCost

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
    counted = model if isinstance(model, Counted) else Counted(model)
    prefill = Prefill(counted, Prefixes(0), clock=lambda: 0.0)
    if warm:
        prefill._longest_slice = 512
    for at, tokens in enumerate(prompts):
        prefill.add(at, tokens)
    done: list[Reading] = []
    while prefill:
        done += prefill.advance(most, 10.0)[1]
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
    assert counted.calls == [(3, len(PROMPTS[2]) - 1), (1, len(long) - 1), (1, len(long) - 1)]


def test_prompts_that_cannot_be_read_together_are_read_alone(model: Any) -> None:
    class Narrow(Counted):
        def __call__(self, tokens: mx.array, cache: Any) -> Any:
            if tokens.shape[0] > 1:
                raise ValueError("one at a time")
            return super().__call__(tokens, cache)

    done, narrow = _read(Narrow(model), PROMPTS)
    assert [reading.id for reading in done] == list(range(len(PROMPTS)))
    assert not any(reading.failure for reading in done)
    assert {rows for rows, _ in narrow.calls} == {1}


def test_no_more_at_once_than_there_is_room_for(model: Any) -> None:
    _, counted = _read(model, PROMPTS, most=3)
    assert [rows for rows, _ in counted.calls] == [3, 3, 2]


def test_an_engine_that_does_not_know_its_speed_begins_small(model: Any) -> None:
    _, counted = _read(model, PROMPTS, warm=False)
    assert counted.calls[0][0] * counted.calls[0][1] <= FIRST_PASS_TOKENS < len(PROMPTS) * len(PROMPTS[-1])


class Clock:
    """Time passes by the number of tokens that are read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed(Counted):
    """Reads a thousand tokens a second, and takes `weights` seconds for each pass."""

    def __init__(self, model: Any, clock: Clock, weights: float = 0.0) -> None:
        super().__init__(model)
        self._time = clock
        self._weights = weights

    def __call__(self, tokens: mx.array, cache: Any) -> Any:
        self._time.now += self._weights + tokens.size / 1000
        return super().__call__(tokens, cache)


def _prompt(length: int, seed: int) -> list[int]:
    return [5 + (seed * 11 + step * (seed + 3)) % 400 for step in range(length + 1)]


@pytest.fixture
def timed(model: Any) -> tuple[Prefill, Clock]:
    clock = Clock()
    prefill = Prefill(Timed(model, clock), Prefixes(0), clock=clock)
    prefill._longest_slice, prefill._cost = 2048, ReadingCost(token=0.001)
    return prefill, clock


def _order(prefill: Prefill, turns: int = 100) -> list[int]:
    done: list[int] = []
    while prefill and (turns := turns - 1):
        done += [reading.id for reading in prefill.advance(32, 0.25)[1]]
    return done


def test_a_short_chat_overtakes_long_prompts(timed: tuple[Prefill, Clock]) -> None:
    prefill, clock = timed
    for at in range(3):
        prefill.add(at, _prompt(3000, at))
    prefill.advance(32, 0.25)
    prefill.add(9, _prompt(100, 9))
    began = clock.now
    assert [reading.id for reading in prefill.advance(32, 0.25)[1]] == [9]
    assert clock.now - began <= 0.25 + 1e-6
    assert _order(prefill) == [0, 1, 2]


def test_nobody_starves_behind_short_chats(timed: tuple[Prefill, Clock]) -> None:
    prefill, _ = timed
    prefill.add(1, _prompt(2000, 1))
    for turn in range(20):
        prefill.add(100 + turn, _prompt(240, turn + 2))
        if 1 in [reading.id for reading in prefill.advance(32, 0.25)[1]]:
            break
    else:
        raise AssertionError("the long prompt was never read")
    assert turn >= 8, "it had every other slice, not all of them"


def test_who_has_waited_longest_shares_a_pass_with_others(model: Any) -> None:
    clock = Clock()
    counted = Timed(model, clock)
    prefill = Prefill(counted, Prefixes(0), clock=clock)
    prefill._longest_slice, prefill._cost = 2048, ReadingCost(token=0.001)
    prefill.add(0, _prompt(60, 0))
    for at in range(1, 5):
        prefill.add(at, _prompt(20, at))
    assert len(prefill.advance(32, 0.09)[1]) == 4, "the shortest first"
    for at in range(5, 9):
        prefill.add(at, _prompt(20, at))
    assert [reading.id for reading in prefill.advance(32, 0.25)[1]] == [0, 5, 6, 7]
    assert counted.calls == [(4, 20), (4, 60)]


def test_a_slice_lasts_no_longer_than_its_budget(timed: tuple[Prefill, Clock]) -> None:
    prefill, clock = timed
    prefill.add(1, _prompt(2000, 1))
    for budget in (0.25, 0.05, 0.1, 0.02):
        began = clock.now
        prefill.advance(32, budget)
        assert 0.5 * budget <= clock.now - began <= budget + 1e-6


def test_short_prompts_share_a_pass_where_it_is_the_weights_that_cost(model: Any) -> None:
    clock = Clock()
    slow = Timed(model, clock, weights=0.08)
    prefill = Prefill(slow, Prefixes(0), clock=clock)
    for at in range(24):
        prefill.add(at, _prompt(16, at))
    turns = []
    while prefill:
        began = clock.now
        prefill.advance(32, 0.25)
        turns.append(clock.now - began)
    assert len(slow.calls) <= 6, "the first is alone, each of the others has as many as it can"
    assert max(turns) <= 0.3


def test_a_model_whose_weights_take_all_of_the_time_gets_on_all_the_same(model: Any) -> None:
    clock = Clock()
    slow = Timed(model, clock, weights=0.5)
    prefill = Prefill(slow, Prefixes(0), clock=clock)
    prefill.add(1, _prompt(2000, 1))
    _order(prefill)
    assert clock.now <= 15, "2 s are for the tokens; 16 at a time would be 62 s"


def test_what_was_read_is_remembered_when_nobody_wants_it_any_more(model: Any) -> None:
    prefixes, clock = Prefixes(1 << 30), Clock()
    prefill = Prefill(Timed(model, clock), prefixes, clock=clock)
    prefill._longest_slice, prefill._cost = 2048, ReadingCost(token=0.001)
    prefill.add(1, _prompt(2000, 1))
    prefill.advance(32, 0.25)
    assert prefill.remove(1)
    assert not prefill
    assert prefixes.recall("", _prompt(2000, 1)).length == 250
    prefill.add(2, _prompt(2000, 1))
    began, (done,) = clock.now, _order(prefill)
    assert done == 2
    assert clock.now - began == pytest.approx(1.75)


def test_a_prompt_learns_from_another_that_was_read_while_it_waited(model: Any) -> None:
    clock = Clock()
    prefill = Prefill(Timed(model, clock), Prefixes(1 << 30), clock=clock)
    prefill._longest_slice, prefill._cost = 2048, ReadingCost(token=0.001)
    prefill.add(1, _prompt(1000, 1))
    prefill.add(2, [*_prompt(1000, 1), 7, 8, 9])
    assert _order(prefill) == [1, 2]
    assert clock.now == pytest.approx(1.003)


def test_what_is_remembered_counts_as_often_as_it_was_of_use(model: Any) -> None:
    told: list[int] = []

    class Listening(LeastRecentlyUsed):
        def order(self, remembered: Sequence[Remembered]) -> Sequence[Remembered]:
            told.extend(prompt.uses for prompt in remembered)
            return super().order(remembered)

    def read_by(prefixes: Prefixes, first: int, *, is_cancelled: bool = False) -> None:
        prefill = Prefill(model, prefixes, clock=lambda: 0.0)
        prefill.add(1, [first + step for step in range(100)])
        if is_cancelled:
            prefill.remove(1)
        while prefill:
            prefill.advance(1, 10.0)

    read_by(roomy := Prefixes(1 << 30), 5)
    prefixes = Prefixes(roomy.size, Listening())
    for _ in range(3):
        read_by(prefixes, 5)
    read_by(prefixes, 5, is_cancelled=True)
    read_by(prefixes, 200)
    assert told == [2]
