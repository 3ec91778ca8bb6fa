"""What a worker may die of, whatever it is doing: its requests are answered or told, the next one is answered."""

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.faults.outcomes import Finding
from tests.faults.standing import ANSWERED, EITHER, TOLD, Ask, good_text, is_gone
from tests.faults.victim import (
    IDLE,
    KILLS,
    STANDSTILL,
    STARVATION,
    WORDS,
    Moment,
    Victim,
    import_copy,
    moments,
    row,
)
from tests.support.harm import Harm, harm
from tests.support.server import Server, serving, wait_until

pytestmark = pytest.mark.xdist_group("matrix-workers")

DEADLY = {**KILLS, **WORDS}
STILL_SECONDS = 0.3
EAGER = {"MLX_API_WORKER_BACKOFF": "0.02", "MLX_API_WORKER_BACKOFF_MOST": "0.02"}


@dataclass
class Bench:
    """A server whose workers can be harmed, and the whole of what it says as long as nobody does."""

    server: Server
    harm: Harm
    weights: Path
    common: Victim
    whole: str = field(init=False)

    def __post_init__(self) -> None:
        body = self.common.body("decode") | {"stream": False}
        self.whole = self.server.post("/api/generate", body).json()["response"]


@pytest.fixture(scope="module")
def bench(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("matrix")
    home = folder / "home"
    model = import_copy(home, tiny_directory, folder)
    with harm() as doing, serving(home, "--context-length", "8192", env=doing.environment | EAGER) as server:
        yield Bench(server, doing, tiny_directory, Victim(server, model, good_text(server, model), []))


@pytest.fixture
def victim(bench: Bench, moment: Moment, tmp_path: Path) -> Iterator[Victim]:
    """One model for all, whose worker in one row is the replacement that another row has brought about.

    What dies while it loads has a model of its own: earlier deaths are held against it.
    """
    if moment[0] != "loading":
        yield bench.common
        return
    bench.common.load()
    model = import_copy(bench.server.home, bench.weights, tmp_path)
    victim = Victim(bench.server, model, bench.common.good, bench.common.cast)
    yield victim
    victim.unload()


@pytest.mark.parametrize(
    ("fault", "moment"), [row(fault, moment, ANSWERED) for fault in DEADLY for moment in moments(fault)]
)
def test_a_worker_that_dies(bench: Bench, victim: Victim, finding: Finding, fault: str, moment: Moment) -> None:
    """Whoever has been let in, or waits for the load, is answered by the next worker."""
    with victim.standing():
        with victim.when(moment) as (worker, asks):
            worker.resume()
            DEADLY[fault](bench.harm, worker)
            if moment == IDLE:
                wait_until(lambda: victim.model not in bench.server.client.get("/api/ps").text, "the news of it")
        finding.settle(victim.outcome(asks, bench.whole) if asks else ANSWERED)
        wait_until(lambda: is_gone(worker), "its end, once its core is written")


@pytest.mark.parametrize(
    ("fault", "moment"),
    [row(fault, moment, ANSWERED, also=", SIGCONT later") for fault in STANDSTILL for moment in moments(fault)],
)
def test_a_worker_that_stands_still_for_a_while(bench: Bench, victim: Victim, fault: str, moment: Moment) -> None:
    with victim.standing(), ThreadPoolExecutor(1) as pool:
        with victim.when(moment) as (worker, asks):
            if moment == IDLE:
                asks.append(Ask(bench.server.url, victim.body("decode"), pool))
            time.sleep(STILL_SECONDS)
            worker.resume()
        assert victim.outcome(asks, bench.whole) == ANSWERED


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the address space of a process has no limit")
@pytest.mark.parametrize(
    ("fault", "moment"), [row(fault, moment, EITHER) for fault in STARVATION for moment in moments(fault)]
)
def test_a_worker_without_memory(bench: Bench, victim: Victim, fault: str, moment: Moment) -> None:
    """Told if an allocation fails as an error; if it ends the process, that is a death like any other."""
    with victim.standing(), ThreadPoolExecutor(1) as pool:
        with victim.when(moment) as (worker, asks):
            worker.resume()
            bench.harm.starve(worker.pid)
            if moment == IDLE:
                asks.append(Ask(bench.server.url, victim.body("prefill"), pool))
        assert victim.outcome(asks, bench.whole) in (TOLD, ANSWERED, EITHER)
        if not is_gone(worker):
            bench.harm.feed(worker.pid)
