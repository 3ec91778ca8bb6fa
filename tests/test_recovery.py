"""When dead workers are replaced, and which prompts are no more tried: on a clock of the test's own."""

import asyncio
import math

import pytest

from mlx_ollama.casualties import MOST_DEATHS, REMEMBERED_PROMPTS, REMEMBERED_SECONDS, Case, Casualties
from mlx_ollama.errors import LoadPaused, Poisonous
from mlx_ollama.policies.errors import status_of
from mlx_ollama.pulse import Care, Pulse
from mlx_ollama.recovery import WINDOW_SECONDS, Recovery
from tests.support import clock


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Link:
    """As much of a worker as `Casualties` looks at."""

    alive = True


def test_the_first_replacement_comes_at_once_the_others_wait_ever_longer() -> None:
    time = Clock()
    recovery = Recovery(clock=time)
    pauses = []
    for _ in range(8):
        recovery.died("a")
        assert recovery.is_restart("a")
        pauses.append(recovery.pause("a"))
        time.now += pauses[-1]
        assert recovery.pause("a") == 0
        recovery.started("a")
        assert not recovery.is_restart("a")
    assert pauses == [0, 2, 4, 8, 16, 32, 60, 60]
    assert recovery.pause("b") == 0
    time.now += WINDOW_SECONDS
    recovery.died("a")
    assert recovery.pause("a") == 0


def test_a_start_that_died_is_made_once_more_unless_there_were_other_deaths_or_the_breaker_is_open() -> None:
    time = Clock()
    recovery = Recovery(clock=time)
    recovery.died("a")
    assert recovery.forgives("a")
    recovery.died("a")
    assert not recovery.forgives("a")
    time.now += WINDOW_SECONDS
    recovery.died("a")
    for _ in range(5):
        assert recovery.forgives("a")
        recovery.failed("a", "killed")
    assert not recovery.forgives("a")


def test_five_failed_starts_are_followed_by_a_minute_of_rest_and_one_trial() -> None:
    time = Clock()
    recovery = Recovery(clock=time)
    for _ in range(5):
        recovery.admit("a", "tiny:latest")
        recovery.failed("a", "no weights")
    time.now += 18.5
    with pytest.raises(LoadPaused) as refused:
        recovery.admit("a", "tiny:latest")
    assert (refused.value.retry_after, status_of(refused.value)) == (42, 503)
    assert refused.value.message == (
        "tiny:latest has failed to load 5 times in a row, and is not tried again before 42 s have passed; "
        "the last time: no weights"
    )
    recovery.admit("b", "other")
    time.now += 41.5
    recovery.admit("a", "tiny:latest")
    with pytest.raises(LoadPaused):
        recovery.admit("a", "tiny:latest")
    recovery.failed("a", "no weights")
    time.now += 59
    with pytest.raises(LoadPaused):
        recovery.admit("a", "tiny:latest")
    time.now += 1
    recovery.admit("a", "tiny:latest")
    recovery.started("a")
    recovery.admit("a", "tiny:latest")


def _death(casualties: Casualties, *cases: Case) -> None:
    link = Link()
    held = [casualties.present(case, link) for case in cases]  # type: ignore[arg-type]
    for one in held:
        one.__enter__()
    casualties.died(link)  # type: ignore[arg-type]
    # Whoever hears of it later changes nothing.
    casualties.died(link)  # type: ignore[arg-type]
    for one in held:
        one.__exit__(None, None, None)


def _is_taken(casualties: Casualties, case: Case) -> bool:
    try:
        casualties.check(case)
    except Poisonous:
        return False
    return True


def test_a_prompt_that_was_there_at_two_deaths_is_out_for_a_while() -> None:
    time = Clock()
    casualties = Casualties(time)
    _death(casualties, Case("model", "x"), Case("model", "x"), Case("model", "y"))
    assert _is_taken(casualties, Case("model", "x"))
    _death(casualties, Case("model", "x"))
    with pytest.raises(Poisonous) as refused:
        casualties.check(Case("model", "x"))
    assert status_of(refused.value) == 500
    assert _is_taken(casualties, Case("model", "y"))
    assert _is_taken(casualties, Case("other", "x"))
    time.now += REMEMBERED_SECONDS
    assert _is_taken(casualties, Case("model", "x"))


def test_prompts_that_were_at_a_death_are_tried_one_at_a_time_others_at_once() -> None:
    casualties, tried = Casualties(Clock()), []

    async def attempt(model: str, prompt: str) -> None:
        async with casualties.turn(Case(model, prompt)):
            tried.append((prompt, "begins"))
            await asyncio.sleep(1)
            tried.append((prompt, "ends"))

    async def all_at_once() -> None:
        await asyncio.gather(attempt("m", "a"), attempt("m", "b"), attempt("m", "new"), attempt("other", "c"))

    _death(casualties, Case("m", "a"), Case("m", "b"))
    _death(casualties, Case("other", "c"))
    clock.run(all_at_once())
    assert tried[:3] == [("a", "begins"), ("new", "begins"), ("c", "begins")]
    assert tried[-2:] == [("b", "begins"), ("b", "ends")]


def test_whoever_waits_for_its_turn_may_be_out_before_it_comes() -> None:
    casualties = Casualties(Clock())

    async def twice() -> list[object]:
        async def attempt() -> None:
            async with casualties.turn(Case("m", "x")):
                await asyncio.sleep(1)
                _death(casualties, Case("m", "x"))

        return [type(result) for result in await asyncio.gather(attempt(), attempt(), return_exceptions=True)]

    _death(casualties, Case("m", "x"))
    assert clock.run(twice()) == [type(None), Poisonous]


def test_what_was_answered_is_above_suspicion_and_what_is_remembered_has_a_bound() -> None:
    casualties = Casualties(Clock())
    case = Case("m", "x")
    _death(casualties, case)
    casualties.acquit(case)
    _death(casualties, case)
    assert _is_taken(casualties, case)
    for number in range(REMEMBERED_PROMPTS):
        for _ in range(MOST_DEATHS):
            _death(casualties, Case("m", number))
    _death(casualties, Case("m", "x"))
    assert _is_taken(casualties, case)


def test_a_step_that_does_not_end_is_noticed_and_a_long_one_is_waited_for() -> None:
    async def end(step_began: float, step_ends: float) -> tuple[str, float]:
        pulse, began = Pulse(Care(5, 25, 5)), clock.now()

        def ask() -> None:
            now = clock.now() - began
            pulse.at_step(7 if step_began <= now < step_ends else 0)
            if now < 1000:
                asyncio.get_running_loop().call_soon(pulse.heard)

        return await pulse.stopped(ask), clock.now() - began

    assert clock.run(end(20.0, math.inf)) == ("has been at one step for 300 s", 325.0)
    assert clock.run(end(20.0, 310.0)) == ("has not answered for 25 s", 1025.0)


def test_silence_is_noticed_within_heartbeat_and_patience() -> None:
    async def seconds(answered: int) -> float:
        pulse, asked, began = Pulse(Care(5, 25, 5)), 0, clock.now()

        def ask() -> None:
            nonlocal asked
            asked += 1
            if asked <= answered:
                asyncio.get_running_loop().call_soon(pulse.heard)

        await pulse.stopped(ask)
        return clock.now() - began

    assert clock.run(seconds(0)) == 25
    # The last answer comes after 15 s, and the first question without one five seconds later.
    assert clock.run(seconds(4)) - 15 == 30
