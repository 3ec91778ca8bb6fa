"""Interleaved rounds, medians, and ratios within a round: the only figures that a noisy machine gives honestly."""

import argparse
import platform
import random
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tests.bench.contenders import NAMES, Contender, Job, contenders, inside
from tests.support.server import run_cli
from tests.support.tiny import widened, write_tiny_model

STREAMS = (1, 4, 8, 16, 32)
SAMPLINGS = ("greedy", "default", "schema")
HELD = ("schema", "free")
Rates: TypeAlias = dict[tuple[str, int, str], list[float]]
"""Tokens per second of every round, by sampling, streams and contender."""

WORDS = ["river", "stone", "morning", "letter", "window", "garden", "silver", "winter", "market", "bridge", "captain"]


@dataclass(frozen=True)
class Subject:
    """A model to measure with; `tokens` is how many each answer may have."""

    directory: Path
    home: Path
    name: str
    tokens: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", nargs="+", default=["two-layer", "demo"], choices=["two-layer", "demo"])
    parser.add_argument("--sampling", nargs="+", default=list(SAMPLINGS), choices=SAMPLINGS)
    parser.add_argument("--streams", nargs="+", type=int, default=list(STREAMS))
    arguments = parser.parse_args()
    print(f"{_machine()}; {arguments.rounds} interleaved rounds, medians; tokens/s, all answers together")
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models:
            subject = _prepare(model, Path(folder))
            rates: Rates = defaultdict(list)
            for round_ in range(arguments.rounds):
                _run_round(subject, round_, arguments.sampling, arguments.streams, rates)
            for sampling in arguments.sampling:
                if sampling == "schema":
                    _print(f"{model}, greedy: held to a schema, and free", "schema", arguments.streams, rates, HELD)
                else:
                    _print(f"{model}, {sampling} sampling", sampling, arguments.streams, rates, NAMES)
            _print_inside(model, subject, arguments.rounds, arguments.streams)
            if {"greedy", "default"} <= set(arguments.sampling):
                _print_default_beside_greedy(model, arguments.streams, rates)


def _prepare(model: str, folder: Path) -> Subject:
    home = folder / f"{model}-home"
    if model == "demo":
        made = run_cli("demo", "--home", str(home))
        assert made.returncode == 0, made.stderr
        return _registered(widened(next((home / "converted").iterdir()), folder / "dense"), home, 24)
    directory = write_tiny_model(folder / model, hidden=512, heads=8, vocabulary=8192)
    return _registered(directory, home, 256)


def _registered(directory: Path, home: Path, tokens: int) -> Subject:
    made = run_cli("import", "bench", str(directory), "--home", str(home))
    assert made.returncode == 0, made.stderr
    return Subject(directory, home, "bench", tokens)


def _run_round(subject: Subject, round_: int, samplings: Sequence[str], streams: Sequence[int], rates: Rates) -> None:
    """Every rival once per line of the table, in changing order.

    Each round has fresh processes: where a process's memory happens to lie is worth several per cent and stays with it.
    """
    generator = random.Random(round_)
    with contenders(subject.directory, subject.home, subject.name) as rivals:
        for rival in rivals:
            rival.run(Job(_prompts(generator, 2), 8))
        turn = round_ % len(rivals)
        for sampling in samplings:
            for count in streams:
                if sampling == "schema":
                    _run_schema(rivals[0], generator, count, subject, rates)
                    continue
                for rival in [*rivals[turn:], *rivals[:turn]]:
                    job = Job(_prompts(generator, count), subject.tokens, default=sampling == "default")
                    rates[sampling, count, rival.name].append(rival.run(job).rate)


def _run_schema(ours: Contender, generator: random.Random, count: int, subject: Subject, rates: Rates) -> None:
    """The same prompts free and held to a schema, in either order."""
    prompts = _prompts(generator, count)
    for schema in generator.sample([False, True], k=2):
        result = ours.run(Job(prompts, subject.tokens, schema=schema))
        rates["schema", count, "schema" if schema else "free"].append(result.rate)


def _prompts(generator: random.Random, count: int) -> list[str]:
    return [" ".join(generator.choices(WORDS, k=16)) for _ in range(count)]


def _print_inside(model: str, subject: Subject, rounds: int, streams: Sequence[int]) -> None:
    generator = random.Random(0)
    with inside(subject.directory) as share:
        share(_prompts(generator, max(streams)), subject.tokens)
        shares = {
            count: [share(_prompts(generator, count), subject.tokens) for _ in range(rounds)] for count in streams
        }
    told = ", ".join(f"{count}: {statistics.median(found):.1%}" for count, found in shares.items())
    print(f"\n{model}, greedy: time of the MLX thread outside model and sampler, by streams: {told}", flush=True)


def _print_default_beside_greedy(model: str, streams: Sequence[int], rates: Rates) -> None:
    beside: Rates = {
        ("", count, sampling): rates[sampling, count, NAMES[0]]
        for count in streams
        for sampling in ("default", "greedy")
    }
    _print(f"{model}, mlx-ollama: default beside greedy", "", streams, beside, ("default", "greedy"))


def _print(title: str, sampling: str, streams: Sequence[int], rates: Rates, names: Sequence[str]) -> None:
    ours, *others = names
    print(f"\n{title}")
    print("streams".rjust(8), *[name.rjust(14) for name in names], *[f"/ {name}".rjust(16) for name in others])
    for count in streams:
        medians = [statistics.median(rates[sampling, count, name]) for name in names]
        ratios = [
            statistics.median(
                mine / theirs
                for mine, theirs in zip(rates[sampling, count, ours], rates[sampling, count, other], strict=True)
            )
            for other in others
        ]
        cells = [*[f"{value:14.0f}" for value in medians], *[f"{value:16.2f}" for value in ratios]]
        print(f"{count:8d}", *cells, flush=True)


def _machine() -> str:
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = f"{len(names)} cores of {names[0]}" if names else processor
    return f"{platform.system()}, {processor}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
