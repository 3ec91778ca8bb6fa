"""Interleaved rounds, medians, and ratios within a round: the only figures that a noisy machine gives honestly."""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench import cold, gateway, rates, turns, waiting
from tests.bench.subjects import MAKERS, Subject, Subjects

SECTIONS: dict[str, tuple[Callable[[str, Subject, int], None], Sequence[str]]] = {
    "waiting": (waiting.measure, ["wide"]),
    "turns": (turns.measure, ["two-layer", "wide"]),
    "cold": (cold.measure, ["wide", "demo"]),
    "gateway": (gateway.measure, ["wide"]),
}
"""What is measured besides rates, and with which models."""


def main() -> None:
    arguments = _parse()
    print(f"{_machine()}; {arguments.rounds} interleaved rounds, medians; ratios are medians of the rounds' own")
    with tempfile.TemporaryDirectory() as folder:
        subjects = Subjects(Path(folder))
        for section in arguments.sections:
            began = time.monotonic()
            if section == "rates":
                rates.measure(subjects, arguments.rounds, arguments.models, arguments.sampling, arguments.streams)
            else:
                measure, models = SECTIONS[section]
                for model in models:
                    measure(model, subjects[model], arguments.rounds)
            print(f"\n({section} took {time.monotonic() - began:.0f} s)", flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sections", nargs="+", default=["rates", *SECTIONS], choices=["rates", *SECTIONS])
    of_rates = parser.add_argument_group("rates")
    of_rates.add_argument("--models", nargs="+", default=list(MAKERS), choices=list(MAKERS))
    of_rates.add_argument("--sampling", nargs="+", default=[], choices=rates.SAMPLINGS)
    of_rates.add_argument("--streams", nargs="+", type=int, default=list(rates.STREAMS))
    return parser.parse_args()


def _machine() -> str:
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = f"{len(names)} cores of {names[0]}" if names else processor
    return f"{platform.system()}, {processor}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
