"""SIGTERM in every other row of the matrix: the gateway ends in time, with all workers; the next one is as good.

What can be under way at once is, on one gateway: each ends by one SIGTERM in the middle of many faults.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.clients import (
    BODIES,
    CONNECTIONS,
    HEADERS,
    LARGE_BYTES,
    body_bomb,
    half_a_request_and_away,
    half_a_request_and_silence,
    header_bomb,
    slow_reader,
    stopped_reader,
    thousands_of_connections,
)
from tests.faults.outcomes import Finding
from tests.faults.scenes import NOTHING, Scene, Scenes, UnderWay
from tests.faults.standing import HUNG_UP, TOLD, Ask, asking
from tests.faults.storing import CUTS, DAMAGES, Jobs, cut_off, damaged, damaged_name, full_disk, import_model
from tests.faults.succession import Succession, succession
from tests.faults.victim import (
    DECODE,
    IDLE,
    KILLS,
    LOADING,
    STANDSTILL,
    STARVATION,
    UNDER_WAY,
    WORDS,
    Deed,
    Moment,
    Victim,
    import_copy,
    in_words,
    moments,
)
from tests.support.harm import Harm
from tests.support.server import Server, wait_until
from tests.worker.gguf_files import TinyLlama, write_gguf

pytestmark = pytest.mark.xdist_group("matrix-sigterm")

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process has no limits that can be set")

EITHER_WAY = f"{TOLD}, or {HUNG_UP}"
AND = ", and SIGTERM"
HOUR = 3600.0


def _leave_alone(harm: Harm, worker: psutil.Process) -> None:
    pass


DEEDS: Mapping[str, Deed] = {"SIGTERM": _leave_alone, **KILLS, **STANDSTILL, **STARVATION, **WORDS}
HARMS: Mapping[str, Sequence[str]] = {fault: (fault,) for fault in DEEDS if fault not in WORDS} | {
    "frames": tuple(WORDS)
}
"""What is done on one gateway."""


def _moments(fault: str) -> Sequence[Moment]:
    """When it is brought about; for the sake of the first model, which is loaded already, no load comes first."""
    return (DECODE, LOADING[0], UNDER_WAY[0]) if fault == "SIGTERM" else moments(fault)


def _row(group: str, fault: str, when: str, outcome: str) -> Any:
    marks = [pytest.mark.fault(fault if fault == "SIGTERM" else fault + AND, when, outcome)]
    if fault in STARVATION or group in ("full", "store"):
        marks.append(on_linux)
    return pytest.param(group, f"{fault}, {when}", marks=marks, id=f"{fault}-{when}".replace(" ", "-"))


def _said(outcome: str) -> str:
    """With a gateway that is about to end it is a matter of moments which words reach a client, if any."""
    return NOTHING if outcome == NOTHING else EITHER_WAY


@dataclass
class Groups:
    """Scenes that are played together, each group once; what came of each."""

    line: Succession
    scenes: Callable[[Succession, str], Scenes]
    _found: dict[str, dict[str, str]] = field(default_factory=dict)

    def outcome(self, group: str, name: str) -> str:
        if group not in self._found:
            self._found[group] = {}
            self._found[group] = self.line.end(self.scenes(self.line, group))
        return self._found[group][name]


# Workers.


@dataclass
class Cast:
    """A model for each moment of a group, loaded by now unless it is to be caught loading."""

    line: Succession
    models: Sequence[str]

    def scenes(self, line: Succession, group: str) -> Scenes:
        faults = HARMS[group]
        parts = [(fault, moment) for fault in faults for moment in _moments(fault)]
        cast: list[Victim] = []
        victims = [Victim(line.server, model, line.good, cast, steps=7000, few=7000) for model in self.models]
        played = dict(zip(parts, victims, strict=False))
        for (_, moment), victim in played.items():
            if moment not in LOADING:
                victim.load()
        return {
            f"{fault}, {in_words(moment)}": partial(self._struck, victim, fault, moment)
            for (fault, moment), victim in played.items()
        }

    @contextmanager
    def _struck(self, victim: Victim, fault: str, moment: Moment, server: Server) -> Iterator[UnderWay]:
        with victim.when(moment) as (worker, asks):

            def go() -> None:
                if fault not in STANDSTILL:
                    worker.resume()
                    DEEDS[fault](self.line.harm, worker)

            yield UnderWay(lambda: _together(asks), go)


def _together(asks: Sequence[Ask]) -> str:
    """What became of requests; none of them was answered, for all were to be too long for that."""
    found = {ask.outcome() for ask in asks} or {NOTHING}
    assert found <= {TOLD, HUNG_UP, NOTHING}
    return TOLD if found == {TOLD} else found.pop()


WORKERS = [
    _row(group, fault, in_words(moment), NOTHING if moment == IDLE else TOLD)
    for group, faults in HARMS.items()
    for fault in faults
    for moment in _moments(fault)
]


@pytest.fixture(scope="module")
def cast(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Groups]:
    folder = tmp_path_factory.mktemp("cast")
    models = [import_copy(folder / "home", tiny_directory, folder) for _ in (IDLE, *LOADING, *UNDER_WAY)]
    with succession(folder / "home", models[0]) as line:
        yield Groups(line, Cast(line, models).scenes)


@pytest.mark.parametrize(("group", "name"), WORKERS)
def test_what_happens_to_workers(cast: Groups, finding: Finding, group: str, name: str) -> None:
    finding.settle(cast.outcome(group, name))


# Clients.

CLIENTS: Mapping[tuple[str, str], Scene] = {
    ("a slow reader", "decode"): slow_reader,
    ("a reader that stops", "decode"): stopped_reader,
    ("half a request, then the end", "before, in and after its head"): half_a_request_and_away,
    ("half a request, then silence", "in its body"): half_a_request_and_silence,
    (f"{CONNECTIONS} connections opened and closed", "with and without a request"): thousands_of_connections,
    **{
        (bomb, "/api/generate" if len(body) > LARGE_BYTES else "any dialect"): body_bomb(bomb)
        for bomb, (body, _) in BODIES.items()
    },
    **{(bomb, "any path"): header_bomb(bomb) for bomb in HEADERS},
}
QUIET = ("half a request, then the end", f"{CONNECTIONS} connections opened and closed")


@pytest.fixture(scope="module")
def clients(tiny_home: Path) -> Iterator[Groups]:
    with succession(tiny_home) as line:
        yield Groups(line, lambda line, group: {f"{fault}, {when}": scene for (fault, when), scene in CLIENTS.items()})


@pytest.mark.parametrize(
    ("group", "name"),
    [_row("clients", fault, when, NOTHING if fault in QUIET else EITHER_WAY) for fault, when in CLIENTS],
)
def test_what_clients_do(clients: Groups, finding: Finding, group: str, name: str) -> None:
    finding.settle(_said(clients.outcome(group, name)))


# The store.

DISK = "a full disk"
GGUF_CUTS = {f"a GGUF file cut off in its {where}": where for where in CUTS}
STORE = [
    *(_row("full", DISK, when, NOTHING if when == "log" else EITHER_WAY) for when in ("create", "pull", "log")),
    *(_row("store", damage, "loading", EITHER_WAY) for damage in DAMAGES),
    *(_row("store", cut, "create", EITHER_WAY) for cut in GGUF_CUTS),
    *(_row("store", "SIGTERM", when, EITHER_WAY) for when in ("create", "pull")),
]


@dataclass(frozen=True)
class Store:
    """What jobs are about: files of a model, a small GGUF file, and one that takes its time."""

    weights: Path
    folder: Path
    small: bytes
    large: bytes

    def scenes(self, line: Succession, group: str) -> Scenes:
        return self._on_a_full_disk(line) if group == "full" else self._damaged(line)

    def _on_a_full_disk(self, line: Succession) -> Scenes:
        jobs = Jobs(line.server, self.small)

        @contextmanager
        def logging(server: Server) -> Iterator[UnderWay]:
            # The disk is full for the others, too: it was the log's from the beginning.
            with full_disk(server), jobs.logging() as under_way:
                yield under_way

        return {
            f"{DISK}, log": logging,
            f"{DISK}, create": lambda server: jobs.uploading(),
            f"{DISK}, pull": lambda server: jobs.pulling(),
        }

    def _damaged(self, line: Succession) -> Scenes:
        jobs = Jobs(line.server, self.large)
        names = {damage: damaged(line.server.home, self.weights, self.folder, damage) for damage in DAMAGES}

        def creating(content: bytes) -> Scene:
            return lambda server: jobs.creating(content)

        def loading(model: str) -> Scene:
            return lambda server: jobs.loading(model)

        return {
            "SIGTERM, create": creating(self.large),
            "SIGTERM, pull": lambda server: jobs.pulling(),
            **{f"{cut}, create": creating(cut_off(self.small, where)) for cut, where in GGUF_CUTS.items()},
            **{f"{damage}, loading": loading(name) for damage, name in names.items()},
        }


@pytest.fixture(scope="module")
def store(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Groups]:
    folder = tmp_path_factory.mktemp("store")
    import_model(folder / "home", "tiny", tiny_directory)
    small = write_gguf(folder / "small.gguf", TinyLlama(layers=1)).read_bytes()
    slow = TinyLlama(layers=8, hidden=512, ffn=1024, heads=8, kv_heads=8, head_dim=64)
    large = write_gguf(folder / "large.gguf", slow).read_bytes()
    with succession(folder / "home", env={"MLX_API_LOG_FILE": "/dev/full"}) as line:
        yield Groups(line, Store(tiny_directory, folder, small, large).scenes)


@pytest.mark.parametrize(("group", "name"), STORE)
def test_what_happens_to_the_store(store: Groups, finding: Finding, group: str, name: str) -> None:
    finding.settle(_said(store.outcome(group, name)))
    stored = {model["name"] for model in store.line.server.client.get("/api/tags").json()["models"]}
    for model in stored - {f"{damaged_name(damage)}:latest" for damage in DAMAGES}:
        assert store.line.server.post("/api/show", {"model": model}).status_code == 200
    assert [path for path in (store.line.server.home / "converted").glob(".partial-*") if path.is_dir()] == []


# The clock.

JUMPS = {"the clock is set back by an hour": -HOUR, "the clock is set forward by a day": 24 * HOUR}
CLOCK = [
    *(_row(fault, fault, "decode", TOLD) for fault in JUMPS),
    _row("the clock is set back by an hour", "the clock is set back by an hour", "rate limit", f"{TOLD} 429"),
]


def _jump(line: Succession, group: str) -> Scenes:
    def jump() -> None:
        for process in (line.server.process, *line.server.workers()):
            line.harm.shift(process.pid, JUMPS[group])

    @contextmanager
    def decode(server: Server) -> Iterator[UnderWay]:
        with asking(server, [{"model": "tiny", "prompt": "bada", "options": {"num_predict": 7000}}]) as asks:
            wait_until(lambda: asks[0].lines, "the first words")
            jump()
            yield UnderWay(asks[0].outcome)

    @contextmanager
    def limited(server: Server) -> Iterator[UnderWay]:
        refused = server.post("/api/generate", {"model": "tiny", "prompt": "x"})
        assert 1 <= int(refused.headers["retry-after"]) <= 200
        yield UnderWay(lambda: f"{TOLD} {refused.status_code}")

    return {f"{group}, decode": decode} | ({f"{group}, rate limit": limited} if JUMPS[group] < 0 else {})


@pytest.fixture(scope="module")
def clock(tiny_home: Path) -> Iterator[Groups]:
    # One good request, and the one that the clock jumps under.
    with succession(tiny_home, env={"MLX_API_RATE_LIMIT": "2", "MLX_API_RATE_WINDOW": "200"}) as line:
        yield Groups(line, _jump)


@pytest.mark.parametrize(("group", "name"), CLOCK)
def test_when_the_clock_jumps(clock: Groups, finding: Finding, group: str, name: str) -> None:
    finding.settle(clock.outcome(group, name))
