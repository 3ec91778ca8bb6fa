"""A prompt that was present at two deaths gets a 500 and is not tried again; victims resume one at a time."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.faults.standing import ANSWERED, TOLD, asking, good_text
from tests.support.harm import harm
from tests.support.server import Server, deaf, serving, wait_until

pytestmark = pytest.mark.xdist_group("victims")

POISON = "zuzu zuzu"
TWICE = "the model worker has stopped 2 times while it had this prompt"
EAGER = {"MLX_API_WORKER_BACKOFF": "0.05"}


def _body(prompt: str, steps: int) -> dict[str, Any]:
    return {"model": "tiny", "prompt": prompt, "options": {"num_predict": steps, "num_ctx": 8192}}


@contextmanager
def _poisoned(home: Path, seconds: float) -> Iterator[Server]:
    with harm() as doing, serving(home, env=EAGER | doing.poison(POISON, seconds)) as server:
        good_text(server)
        yield server


def test_of_eight_streams_the_poisonous_one_is_told_and_seven_are_answered(tiny_home: Path) -> None:
    """Its worker dies each time when it has said something already, and so could be taken for innocent."""
    innocents = [_body(f"{'bada ' * number}momo", 400) for number in range(7)]
    with _poisoned(tiny_home, 0.2) as server:
        with asking(server, innocents) as undisturbed:
            pass
        with ExitStack() as stack:
            asks = stack.enter_context(asking(server, innocents))
            wait_until(lambda: all(ask.lines for ask in asks), "the first words of all")
            (poisonous,) = stack.enter_context(asking(server, [_body(POISON, 7000)]))
        assert [ask.outcome() for ask in asks] == [ANSWERED] * 7
        assert [ask.text for ask in asks] == [ask.text for ask in undisturbed]
        assert poisonous.outcome() == TOLD
        assert TWICE in poisonous.lines[-1]["error"]
        assert server.figure("worker_deaths_total") == 2
        refused = server.post("/api/generate", _body(POISON, 1) | {"stream": False})
        assert refused.status_code == 500
        assert TWICE in refused.json()["error"]
        assert server.figure("worker_deaths_total") == 2


def _has_resumed(server: Server, count: int) -> bool:
    return server.figure("resumed_streams_total") == count


def test_victims_keep_no_company(tiny_home: Path) -> None:
    """Whichever goes on first is alone when its second worker dies, so it is the only one that is told."""
    with serving(tiny_home, env=EAGER) as server:
        good_text(server)
        with asking(server, [_body("bada", 1500), _body("keti", 1500)]) as asks:
            for resumed in (0, 1):
                wait_until(lambda: all(ask.lines for ask in asks), "the first words of all")
                wait_until(partial(_has_resumed, server, resumed), "a resumption")
                server.workers()[-1].kill()
        assert sorted(ask.outcome() for ask in asks) == [ANSWERED, TOLD]
        (told,) = [ask for ask in asks if ask.outcome() == TOLD]
        assert TWICE in told.lines[-1]["error"]


def test_a_suspect_that_is_sent_again_waits_for_its_turn(tiny_home: Path) -> None:
    """A client that hangs up and asks again brings the same prompt, of which nobody else shall die."""
    with _poisoned(tiny_home, 0.0) as server:
        with asking(server, [_body("bada", 1500)]) as asks:
            wait_until(lambda: asks[0].lines, "the first words")
            with deaf(server, _body(POISON, 1)):
                # It waits by then, or it was tried first and is out already.
                wait_until(lambda: server.figure("resumed_streams_total"), "a resumption")
            again = server.post("/api/generate", _body(POISON, 1) | {"stream": False})
        assert asks[0].outcome() == ANSWERED
        assert again.status_code == 500
        assert TWICE in again.json()["error"]
