"""Interleaved rounds, medians, and ratios within a round: the only figures that a noisy machine gives honestly."""

import argparse
import platform
import random
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tests.bench.contenders import Contender, Job, contenders
from tests.support.server import run_cli
from tests.support.tiny import write_tiny_model

STREAMS = (1, 4, 8, 16)
WORDS = "river stone morning letter window garden silver winter market bridge mountain captain yellow".split()


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", nargs="+", default=["two-layer", "demo"], choices=["two-layer", "demo"])
    parser.add_argument("--sampling", nargs="+", default=["greedy", "default"], choices=["greedy", "default"])
    parser.add_argument("--streams", nargs="+", type=int, default=list(STREAMS))
    arguments = parser.parse_args()
    print(f"{_machine()}; {arguments.rounds} interleaved rounds, medians; tokens/s, all answers together")
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models:
            directory, home, name, tokens = _prepare(model, Path(folder))
            with contenders(directory, home, name) as all_of_them:
                for sampling in arguments.sampling:
                    jobs = [(n, tokens, sampling == "default") for n in arguments.streams]
                    _measure(f"{model}, {sampling} sampling", all_of_them, jobs, arguments.rounds)


def _prepare(model: str, folder: Path) -> tuple[Path, Path, str, int]:
    """Model directory, home, name there, and tokens per answer."""
    home = folder / f"{model}-home"
    if model == "demo":
        made = run_cli("demo", "--home", str(home))
        name, tokens = "smollm2:135m", 48
        (directory,) = (home / "converted").iterdir() if not made.returncode else ()
        return directory, home, name, tokens
    directory = write_tiny_model(folder / model, hidden=512, heads=8, vocabulary=8192)
    made = run_cli("import", "bench", str(directory), "--home", str(home))
    assert made.returncode == 0, made.stderr
    return directory, home, "bench", 160


def _measure(title: str, rivals: Sequence[Contender], jobs: list[tuple[int, int, bool]], rounds: int) -> None:
    rates: dict[tuple[int, str], list[float]] = defaultdict(list)
    generator = random.Random(0)
    for round_ in range(rounds + 1):
        for streams, tokens, default in jobs:
            order = list(rivals[round_ % len(rivals) :]) + list(rivals[: round_ % len(rivals)])
            for rival in order:
                prompts = [" ".join(generator.choices(WORDS, k=16)) for _ in range(streams)]
                rate = rival.run(Job(prompts, tokens, default)).rate
                if round_:  # the first round only warms up
                    rates[streams, rival.name].append(rate)
    _print(title, rivals, [job[0] for job in jobs], rates)


def _print(
    title: str, rivals: Sequence[Contender], streams: Sequence[int], rates: dict[tuple[int, str], list[float]]
) -> None:
    names = [rival.name for rival in rivals]
    ours, *others = names
    print(f"\n{title}")
    print("streams".rjust(8), *[name.rjust(14) for name in names], *[f"/ {name}".rjust(16) for name in others])
    for count in streams:
        medians = [statistics.median(rates[count, name]) for name in names]
        ratios = [
            statistics.median(a / b for a, b in zip(rates[count, ours], rates[count, other], strict=True))
            for other in others
        ]
        print(f"{count:8d}", *[f"{value:14.0f}" for value in medians], *[f"{value:16.2f}" for value in ratios])


def _machine() -> str:
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = f"{len(names)} × {names[0]}" if names else processor
    return f"{platform.system()}, {processor}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
