"""What a worker may die of, whatever it is doing: its requests are answered or told, the next one is answered."""

import itertools
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlx_ollama.cli import main
from tests.faults.outcomes import Finding
from tests.faults.standing import ANSWERED, EITHER, TOLD, Ask, asking, good_text, is_gone, outcome_of, standing
from tests.support.harm import Harm, harm
from tests.support.server import Server, serving, wait_until

pytestmark = pytest.mark.xdist_group("matrix-workers")

STEPS = 400
PROMPT_WORDS = 400
STILL_SECONDS = 0.3
UNDER_WAY_SECONDS = 0.05
"""Reading a prompt of that size takes longer."""

Deed = Callable[[Harm, psutil.Process], None]

_numbers = itertools.count()


@dataclass(frozen=True)
class Bench:
    """A server whose workers can be harmed, and the beginning and the whole of what it says as long as nobody does."""

    server: Server
    harm: Harm
    weights: Path
    good: str
    whole: str


@dataclass(frozen=True)
class Victim:
    """A model of its own for each row: deaths are held against a model for a while."""

    bench: Bench
    model: str

    def body(self, state: str, count: int, number: int = 0) -> dict[str, Any]:
        """What brings a worker into a state, one of `count` requests for that."""
        if state == "prefill":
            # Each begins in its own way: what was read for one would be known for all.
            prompt = "bcdfghjk"[number] + "u keti zuzu momo" * (PROMPT_WORDS // min(count, 4))
            return {"model": self.model, "prompt": prompt, "options": {"num_predict": 3}}
        return {"model": self.model, "prompt": "bada", "options": {"num_predict": STEPS}}

    def ask(self, pool: ThreadPoolExecutor, state: str) -> Ask:
        return Ask(self.bench.server.url, self.body(state, 1), pool)

    def standing(self) -> AbstractContextManager[None]:
        return standing(self.bench.server, self.bench.good, self.model)

    def outcome(self, asks: Sequence[Ask], state: str) -> str:
        """What became of the requests. What they were sent is right, however much of it they got."""
        for ask in asks:
            if state != "prefill" and ask.text:
                assert self.bench.whole.startswith(ask.text)
                assert ask.outcome() == TOLD or ask.text == self.bench.whole
        return outcome_of(asks)

    def load(self) -> psutil.Process:
        """Its worker."""
        others = {worker.pid for worker in self.bench.server.workers()}
        assert self.bench.server.post("/api/generate", {"model": self.model}).json()["done_reason"] == "load"
        return self._worker(others)

    @contextmanager
    def when(self, state: str, count: int) -> Iterator[tuple[psutil.Process, list[Ask]]]:
        """Bring the worker into a state, with `count` requests; after the block these have ended in some way."""
        server = self.bench.server
        others = {other.pid for other in server.workers()}
        if state != "loading":
            worker = self.load()
            # All shall begin at once, however busy this machine is.
            worker.suspend()
        asked = 0 if state == "idle" else count
        with asking(server, [self.body(state, count, number) for number in range(asked)]) as asks:
            wait_until(lambda: server.client.get("/health").json()["active_requests"] == asked, "all requests")
            if state == "loading":
                worker = self._worker(others)
            worker.resume()
            if state == "decode":
                wait_until(lambda: all(ask.lines for ask in asks), "the first words of all")
            else:
                time.sleep(UNDER_WAY_SECONDS)
                assert not any(ask.lines for ask in asks)
            yield worker, asks

    def _worker(self, others: set[int]) -> psutil.Process:
        (worker,) = wait_until(
            lambda: [worker for worker in self.bench.server.workers() if worker.pid not in others], "a worker"
        )
        return worker


@pytest.fixture(scope="module")
def bench(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    home = tmp_path_factory.mktemp("matrix")
    _import(home, "tiny", tiny_directory)
    with harm() as doing, serving(home, "--context-length", "8192", env=doing.environment) as server:
        body = {"model": "tiny", "prompt": "bada", "stream": False, "options": {"num_predict": STEPS}}
        whole = server.post("/api/generate", body).json()["response"]
        yield Bench(server, doing, tiny_directory, good_text(server), whole)


@pytest.fixture
def victim(bench: Bench, tmp_path: Path) -> Iterator[Victim]:
    name = f"tiny{next(_numbers)}"
    _import(bench.server.home, name, shutil.copytree(bench.weights, tmp_path / name, copy_function=os.link))
    yield Victim(bench, name)
    bench.server.post("/api/generate", {"model": name, "keep_alive": 0})


def _import(home: Path, name: str, directory: Path) -> None:
    assert main(("import", name, str(directory), "--home", str(home), "--parameter", "temperature=0")) == 0


def _signal(name: signal.Signals) -> Deed:
    return lambda doing, worker: worker.send_signal(name)


KILLS: dict[str, Deed] = {
    "kill -9 of a worker": _signal(signal.SIGKILL),
    "SIGABRT of a worker, as Metal does": _signal(signal.SIGABRT),
    "exit 1 of a worker": lambda doing, worker: doing.exit(worker.pid, 1),
}
STATES = [("loading", 1), ("loading", 8), ("prefill", 1), ("prefill", 8), ("decode", 1), ("decode", 8)]

STARVED = [("idle", 1), ("loading", 1), ("prefill", 1), ("decode", 1), ("decode", 8)]
"""With eight prompts at once MLX may wait for ever for a thread that it could not start."""


def _rows(fault: str, states: list[tuple[str, int]], *outcomes: str) -> list[Any]:
    rows = []
    for state, count in states:
        when = state if state == "idle" else f"{state}, {count} {'stream' if count == 1 else 'streams'}"
        marks = pytest.mark.fault(fault, when, *outcomes)
        rows.append(pytest.param(fault, state, count, marks=marks, id=f"{fault}-{when}".replace(" ", "-")))
    return rows


@pytest.mark.parametrize(
    ("fault", "state", "count"),
    [row for fault in KILLS for row in (*_rows(fault, STATES[:2], TOLD), *_rows(fault, STATES[2:], ANSWERED))],
)
def test_a_worker_that_dies(victim: Victim, finding: Finding, fault: str, state: str, count: int) -> None:
    """A load that fails is told; whoever has been let in is answered by the next worker."""
    with victim.standing():
        with victim.when(state, count) as (worker, asks):
            KILLS[fault](victim.bench.harm, worker)
        finding.settle(victim.outcome(asks, state))
        wait_until(lambda: is_gone(worker), "its end, once its core is written")


@pytest.mark.parametrize(
    ("fault", "state", "count"), [row for fault in KILLS for row in _rows(fault, [("idle", 0)], ANSWERED)]
)
def test_a_worker_that_dies_while_nobody_uses_it(victim: Victim, fault: str, state: str, count: int) -> None:
    with victim.standing():
        worker = victim.load()
        KILLS[fault](victim.bench.harm, worker)
        wait_until(lambda: victim.model not in victim.bench.server.client.get("/api/ps").text, "the news of it")
        wait_until(lambda: is_gone(worker), "its end, once its core is written")


@pytest.mark.parametrize(
    ("fault", "state", "count"), _rows("SIGSTOP of a worker, SIGCONT later", [("idle", 1), *STATES], ANSWERED)
)
def test_a_worker_that_stands_still_for_a_while(victim: Victim, fault: str, state: str, count: int) -> None:
    with victim.standing(), ThreadPoolExecutor(1) as pool:
        with victim.when(state, count) as (worker, asks):
            worker.suspend()
            if state == "idle":
                asks.append(victim.ask(pool, "decode"))
            time.sleep(STILL_SECONDS)
            worker.resume()
        assert victim.outcome(asks, state) == ANSWERED


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the address space of a process has no limit")
@pytest.mark.parametrize(("fault", "state", "count"), _rows("out of memory in a worker", STARVED, EITHER))
def test_a_worker_without_memory(victim: Victim, fault: str, state: str, count: int) -> None:
    """Told if an allocation fails as an error; if it ends the process, that is a death like any other."""
    with victim.standing(), ThreadPoolExecutor(1) as pool:
        with victim.when(state, count) as (worker, asks):
            victim.bench.harm.starve(worker.pid)
            if state == "idle":
                asks.append(victim.ask(pool, "prefill"))
        assert victim.outcome(asks, state) in (TOLD, ANSWERED, EITHER)
        if not is_gone(worker):
            victim.bench.harm.feed(worker.pid)
