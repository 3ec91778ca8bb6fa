"""A worker that sends what is no frame: it is ended, another one goes on with its requests."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlx_ollama.cli import main
from tests.faults.outcomes import Finding
from tests.faults.standing import ANSWERED, asking, good_text, is_gone, outcome_of, standing
from tests.support.harm import Harm, harm
from tests.support.server import Server, serving, wait_until

pytestmark = pytest.mark.xdist_group("matrix-frames")

WORDS = {
    "a frame that is no JSON": b"\0\0\0\x07garbage",
    "a frame of no known kind": b"\0\0\0\x06[99,1]",
    "a frame with the wrong fields": b"\0\0\0\x0b[5,[[1,2]]]",
    "a frame of four gigabytes": b"\xff\xff\xff\xff",
    "a torn frame: the rest is another's beginning": b"\0\0\x01\0[5,",
}


@dataclass(frozen=True)
class Bench:
    server: Server
    harm: Harm
    good: str


@pytest.fixture(scope="module")
def bench(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("frames")
    for number in range(len(WORDS) + 1):
        # Deaths are held against a model for a while.
        directory = shutil.copytree(tiny_directory, folder / f"tiny{number}", copy_function=os.link)
        name = ("import", f"tiny{number}", str(directory))
        assert main((*name, "--home", str(folder / "home"), "--parameter", "temperature=0")) == 0
    with harm() as doing, serving(folder / "home", env=doing.environment) as server:
        yield Bench(server, doing, good_text(server, "tiny0"))


def _body(model: str) -> dict[str, Any]:
    return {"model": model, "prompt": "bada", "options": {"num_predict": 400}}


def _row(number: int, fault: str) -> Any:
    mark = pytest.mark.fault(fault, "decode, 1 stream", ANSWERED)
    return pytest.param(fault, f"tiny{number}", marks=mark, id=fault.replace(" ", "-"))


@pytest.mark.parametrize(("fault", "model"), [_row(number, fault) for number, fault in enumerate(WORDS)])
def test_what_is_no_frame(bench: Bench, finding: Finding, fault: str, model: str) -> None:
    server = bench.server
    with standing(server, bench.good, model):
        good_text(server, model)
        worker = server.workers()[-1]
        with asking(server, [_body(model)]) as asks:
            wait_until(lambda: asks[0].lines, "the first words")
            bench.harm.say(worker.pid, WORDS[fault])
        finding.settle(outcome_of(asks))
        wait_until(lambda: is_gone(worker), "the end of the worker")
    server.post("/api/generate", {"model": model, "keep_alive": 0})


@pytest.mark.fault("a torn frame: its writer dies in the middle", "decode, 1 stream", ANSWERED)
def test_a_frame_whose_writer_dies(bench: Bench, finding: Finding) -> None:
    server, model = bench.server, f"tiny{len(WORDS)}"
    with standing(server, bench.good, model):
        good_text(server, model)
        worker = server.workers()[-1]
        with asking(server, [_body(model)]) as asks:
            wait_until(lambda: asks[0].lines, "the first words")
            bench.harm.say(worker.pid, b"\0\0\x01\0[5,")
            bench.harm.exit(worker.pid, 1)
        finding.settle(outcome_of(asks))
        wait_until(lambda: is_gone(worker), "the end of the worker")
