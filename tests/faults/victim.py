"""Models whose workers are harmed, and the moments in which that is done to them."""

import itertools
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlx_ollama.cli import main
from tests.faults.standing import TOLD, Ask, asking, good_text, is_gone, outcome_of, standing
from tests.support.harm import Harm
from tests.support.server import Server, wait_until

PROMPT_WORDS = 400
UNDER_WAY_SECONDS = 0.05
"""Reading a prompt of that size takes longer."""

Deed = Callable[[Harm, psutil.Process], None]
Moment = tuple[str, int]
"""What a worker is doing, and for how many streams."""

IDLE: Moment = ("idle", 0)
LOADING: Sequence[Moment] = (("loading", 1), ("loading", 8))
UNDER_WAY: Sequence[Moment] = (("prefill", 1), ("prefill", 8), ("decode", 1), ("decode", 8))
DECODE: Moment = ("decode", 1)

_HALF_A_FRAME = b"\0\0\x01\0[5,"

_numbers = itertools.count()


def _signal(name: signal.Signals) -> Deed:
    return lambda harm, worker: worker.send_signal(name)


def _say(words: bytes) -> Deed:
    return lambda harm, worker: harm.say(worker.pid, words)


KILLS: Mapping[str, Deed] = {
    "kill -9 of a worker": _signal(signal.SIGKILL),
    "SIGABRT of a worker, as Metal does": _signal(signal.SIGABRT),
    "exit 1 of a worker": lambda harm, worker: harm.exit(worker.pid, 1),
}
STANDSTILL: Mapping[str, Deed] = {"SIGSTOP of a worker": _signal(signal.SIGSTOP)}
STARVATION: Mapping[str, Deed] = {"out of memory in a worker": lambda harm, worker: harm.starve(worker.pid)}
WORDS: Mapping[str, Deed] = {
    "a frame that is no JSON": _say(b"\0\0\0\x07garbage"),
    "a frame of no known kind": _say(b"\0\0\0\x06[99,1]"),
    "a frame with the wrong fields": _say(b"\0\0\0\x0b[5,[[1,2]]]"),
    "a frame of four gigabytes": _say(b"\xff\xff\xff\xff"),
    "a torn frame: the rest is another's beginning": _say(_HALF_A_FRAME),
    "a torn frame: its writer dies in the middle": lambda harm, worker: harm.gasp(worker.pid, _HALF_A_FRAME),
}


def moments(fault: str) -> Sequence[Moment]:
    """When it is brought about."""
    return (DECODE,) if fault in WORDS else (IDLE, *LOADING, *UNDER_WAY)


def in_words(moment: Moment) -> str:
    state, count = moment
    return state if moment == IDLE else f"{state}, {count} {'stream' if count == 1 else 'streams'}"


def row(fault: str, moment: Moment, *outcomes: str, also: str = "") -> Any:
    """The parameters of a test that brings about a fault in a moment."""
    when = in_words(moment)
    mark = pytest.mark.fault(fault + also, when, *outcomes)
    return pytest.param(fault, moment, marks=mark, id=f"{fault}-{when}".replace(" ", "-"))


@dataclass
class Victim:
    """A model on a server, and its `worker`; that of whom among the `cast` each other worker is, is known.

    `good` is its good answer; `steps` are the tokens that are asked of it when it decodes, `few` those behind a prompt.
    """

    server: Server
    model: str
    good: str
    cast: "list[Victim]" = field(repr=False)
    steps: int = 250
    few: int = 3
    worker: psutil.Process | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.cast.append(self)

    def body(self, state: str, count: int = 1, number: int = 0) -> dict[str, Any]:
        """What brings a worker into a state, one of `count` requests for that."""
        if state == "prefill":
            # Each begins in its own way: what was read for one would be known for all.
            prompt = f"{next(_numbers)} " + "bu keti zuzu momo" * (PROMPT_WORDS // min(count, 4))
            return {"model": self.model, "prompt": prompt, "options": {"num_predict": self.few}}
        return {"model": self.model, "prompt": "bada", "options": {"num_predict": self.steps}}

    def load(self) -> psutil.Process:
        """Its worker, which answers as it always has."""
        assert good_text(self.server, self.model) == self.good
        return self.found()

    def found(self) -> psutil.Process:
        """Its worker, whichever that is by now."""
        others = {other.worker for other in self.cast if other is not self}
        (worker,) = wait_until(
            lambda: [worker for worker in self.server.workers() if worker not in others and not is_gone(worker)],
            "a worker",
        )
        self.worker = worker
        return self.worker

    def unload(self) -> None:
        """Leave the cast."""
        self.server.post("/api/generate", {"model": self.model, "keep_alive": 0})
        wait_until(lambda: self.worker is None or is_gone(self.worker), "its end")
        self.cast.remove(self)

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Around a fault: see `standing`."""
        with standing(self.server, self.good, self.model):
            yield
        self.found()

    @contextmanager
    def when(self, moment: Moment) -> Iterator[tuple[psutil.Process, list[Ask]]]:
        """Have the worker stand still in a moment, until it is resumed; after the block its requests have ended."""
        state, count = moment
        if state != "loading":
            # All shall begin at once, however busy this machine is.
            worker = self.load()
            worker.suspend()
        with asking(self.server, [self.body(state, count, number) for number in range(count)]) as asks:
            wait_until(lambda: self._requests() == count, "all requests")
            if state == "loading":
                worker = self.found()
            worker.resume()
            if state == "decode":
                wait_until(lambda: all(ask.lines for ask in asks), "the first words of all")
            else:
                time.sleep(UNDER_WAY_SECONDS)
            worker.suspend()
            assert state == "decode" or not any(ask.lines for ask in asks)
            yield worker, asks

    def outcome(self, asks: Sequence[Ask], whole: str) -> str:
        """What became of its requests. What they were sent is right, however much of it they got."""
        for ask in asks:
            if ask.body["prompt"] == "bada" and ask.text:
                assert whole.startswith(ask.text)
                assert ask.outcome() == TOLD or ask.text == whole
        return outcome_of(asks)

    def _requests(self) -> int:
        requests = self.server.client.get("/health").json()["active_model_requests"]
        return int(requests.get(f"{self.model}:latest", requests.get(self.model, 0)))


def import_copy(home: Path, weights: Path, folder: Path) -> str:
    """A model of its own, whose deaths are held against no other; its name."""
    name = f"tiny{next(_numbers)}"
    directory = shutil.copytree(weights, folder / name, copy_function=os.link)
    assert main(("import", name, str(directory), "--home", str(home), "--parameter", "temperature=0")) == 0
    return name
