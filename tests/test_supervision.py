"""Restart budget, backoff and breaker hold for every course of events."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_ollama.supervision import Backoff, CircuitBreaker, RestartPolicy

gaps = st.lists(st.floats(0, 120, allow_nan=False), max_size=60)
"""Seconds between events."""


@given(gaps, st.integers(1, 6), st.floats(1, 400))
@settings(derandomize=True, deadline=None)
def test_no_window_holds_more_restarts_than_the_budget(gaps: Sequence[float], restarts: int, within: float) -> None:
    policy = RestartPolicy(restarts, within)
    made = [now for now in accumulate(gaps) if policy.allow(now)]
    for first, after_budget in zip(made, made[restarts:], strict=False):
        assert after_budget - first >= within


@given(gaps)
@settings(derandomize=True, deadline=None)
def test_a_restart_is_refused_only_when_the_budget_is_spent(gaps: Sequence[float]) -> None:
    policy = RestartPolicy()
    made: list[float] = []
    for now in accumulate(gaps):
        recent = sum(now - then < 300 for then in made)
        assert policy.recent(now) == recent
        assert policy.allow(now) == (recent < 5)
        if recent < 5:
            made.append(now)


def test_the_default_budget_is_five_in_five_minutes() -> None:
    policy = RestartPolicy()
    assert [policy.allow(now) for now in (0, 1, 2, 3, 4, 5, 299.9, 300, 300.5, 301)] == [True] * 5 + [
        *(False, False),
        *(True, False, True),
    ]


def test_the_pauses_double_up_to_a_minute() -> None:
    assert [Backoff().delay(repeats) for repeats in range(7)] == [2, 4, 8, 16, 32, 60, 60]
    assert [Backoff().after(deaths) for deaths in range(8)] == [0, 0, 2, 4, 8, 16, 32, 60]


@given(st.floats(0.001, 100), st.floats(0.001, 1000), st.integers(0, 10**9))
@settings(derandomize=True, deadline=None)
def test_a_pause_never_shrinks_and_never_passes_its_ceiling(first: float, most: float, repeats: int) -> None:
    backoff = Backoff(first, most)
    assert 0 < backoff.delay(repeats) <= backoff.delay(repeats + 1) <= most


def test_five_failures_open_the_breaker_for_a_minute_then_one_may_try() -> None:
    breaker = CircuitBreaker()
    for now in range(5):
        assert breaker.allow(now)
        breaker.failed(now)
    assert breaker.is_open
    assert not breaker.allow(63.9)
    assert breaker.retry_in(34) == pytest.approx(30)
    assert [breaker.allow(64), breaker.allow(64), breaker.allow(100)] == [True, False, False]
    breaker.failed(70)
    assert [breaker.allow(129.9), breaker.allow(130), breaker.allow(131)] == [False, True, False]
    breaker.succeeded()
    assert breaker.retry_in(131) == 0
    assert [breaker.allow(131), breaker.allow(131)] == [True, True]


def test_a_success_between_failures_keeps_it_closed() -> None:
    breaker = CircuitBreaker()
    for now in range(40):
        breaker.failed(now)
        if now % 4 == 3:
            breaker.succeeded()
        assert breaker.allow(now)


def test_stragglers_do_not_keep_it_open_for_longer() -> None:
    breaker = CircuitBreaker(failures=1)
    breaker.failed(0)
    breaker.failed(59)
    assert breaker.allow(60)


def test_a_trial_that_tells_nothing_is_lost_and_another_may_try() -> None:
    breaker = CircuitBreaker(failures=1)
    breaker.failed(0)
    assert [breaker.allow(60), breaker.allow(119), breaker.allow(120)] == [True, False, True]


@given(st.lists(st.tuples(st.floats(0, 90), st.sampled_from(["try", "fail", "succeed"])), max_size=80))
@settings(derandomize=True, deadline=None)
def test_an_open_breaker_lets_one_pass_in_each_term(events: Sequence[tuple[float, str]]) -> None:
    breaker = CircuitBreaker()
    passed: list[float] = []
    now = 0.0
    for gap, event in events:
        now += gap
        was_open = breaker.is_open
        match event:
            case "try":
                expected = breaker.retry_in(now) == 0
                assert breaker.allow(now) == expected
                if expected and was_open:
                    passed.append(now)
            case "fail":
                breaker.failed(now)
                if breaker.is_open and not was_open:
                    passed = []
            case "succeed":
                breaker.succeeded()
                assert not breaker.is_open
                passed = []
        assert 0 <= breaker.retry_in(now) <= breaker.open_for
        assert all(later - earlier >= breaker.open_for for earlier, later in pairwise(passed))
