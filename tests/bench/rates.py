"""Tokens per second of all answers together, and the MLX thread's time that is not model and sampler."""

import random
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeAlias

from tests.bench.contenders import NAMES, contenders, inside, turned
from tests.bench.figure import Target, ratios
from tests.bench.jobs import Contender, Job
from tests.bench.subjects import Subject, Subjects

STREAMS = (1, 4, 8, 16, 32)
SAMPLINGS = ("greedy", "default", "schema")
USUAL = {"two-layer": SAMPLINGS, "demo": SAMPLINGS[:2]}
"""What is measured if nothing is asked for. The smaller a model, the more of its time is the sampler's and ours."""

HELD = ("schema", "free")
OUTSIDE = Target(5.0)
ROUNDS_INSIDE = 3
"""A share of one thread's own time hardly scatters."""

Rates: TypeAlias = dict[tuple[str, int, str], list[float]]
"""Tokens per second of every round, by sampling, streams and contender."""


def measure(
    subjects: Subjects, rounds: int, models: Sequence[str], wanted: Sequence[str], streams: Sequence[int]
) -> None:
    """`wanted` are samplings; none are those that say most about each model."""
    for model in models:
        subject, samplings = subjects[model], wanted or USUAL.get(model, SAMPLINGS[:1])
        rates: Rates = defaultdict(list)
        for round_ in range(rounds):
            _run_round(subject, round_, samplings, streams, rates)
        for sampling in samplings:
            if sampling == "schema":
                _print(f"{model}, greedy: held to a schema, and free", "schema", streams, rates, HELD)
            else:
                _print(f"{model}, {sampling} sampling", sampling, streams, rates, NAMES)
        _print_inside(model, subject, min(rounds, ROUNDS_INSIDE), streams)
        if {"greedy", "default"} <= set(samplings):
            _print_default_beside_greedy(model, streams, rates)


def _run_round(subject: Subject, round_: int, samplings: Sequence[str], streams: Sequence[int], rates: Rates) -> None:
    """Every rival once per line of the table, in changing order.

    Each round has fresh processes: where a process's memory happens to lie is worth several per cent and stays with it.
    """
    with contenders(subject) as rivals:
        for sampling in samplings:
            for count in streams:
                if sampling == "schema":
                    _run_schema(rivals[0], round_, count, subject, rates)
                    continue
                for rival in turned(rivals, round_):
                    prompts = subject.prompts((round_, sampling, count), count)
                    job = Job(prompts, subject.tokens, default=sampling == "default")
                    rates[sampling, count, rival.name].append(rival.run(job).rate)


def _run_schema(ours: Contender, round_: int, count: int, subject: Subject, rates: Rates) -> None:
    """The same prompts free and held to a schema, in either order."""
    prompts = subject.prompts((round_, count), count)
    for schema in random.Random(round_ * 100 + count).sample([False, True], k=2):
        result = ours.run(Job(prompts, subject.tokens, schema=schema))
        rates["schema", count, "schema" if schema else "free"].append(result.rate)


def _print_inside(model: str, subject: Subject, rounds: int, streams: Sequence[int]) -> None:
    with inside(subject.directory) as share:
        share(subject.prompts("warm", max(streams)), subject.tokens)
        shares = {
            count: 100
            * statistics.median(
                share(subject.prompts((round_, count), count), subject.tokens) for round_ in range(rounds)
            )
            for count in streams
        }
    told = ", ".join(f"{count}: {found:.1f} %" for count, found in shares.items())
    told += f" ({OUTSIDE.beside(max(shares.values()), 0)})"
    print(f"\n{model}, greedy: time of the MLX thread outside model and sampler, by streams: {told}", flush=True)


def _print_default_beside_greedy(model: str, streams: Sequence[int], rates: Rates) -> None:
    beside: Rates = {
        ("", count, sampling): rates[sampling, count, NAMES[0]]
        for count in streams
        for sampling in ("default", "greedy")
    }
    _print(f"{model}, mlx-ollama: default beside greedy", "", streams, beside, ("default", "greedy"))


def _print(title: str, sampling: str, streams: Sequence[int], rates: Rates, names: Sequence[str]) -> None:
    """A table of the first of `names` beside the others, and of its ratios to them beside their targets."""
    ours, *others = names
    print(f"\n{title}")
    print("streams".rjust(8), *[name.rjust(14) for name in names], *[f"/ {name}".rjust(21) for name in others])
    for count in streams:
        medians = [statistics.median(rates[sampling, count, name]) for name in names]
        cells = [f"{value:14.0f}" for value in medians]
        for other in others:
            ratio = statistics.median(ratios(rates[sampling, count, ours], rates[sampling, count, other]))
            target = _target(title, other, count)
            cells.append(f"{ratio:.2f} {target.beside(ratio, 2) if target else '':13}".rjust(21))
        print(f"{count:8d}", *cells, flush=True)


def _target(title: str, other: str, streams: int) -> Target | None:
    if other == NAMES[2]:
        return Target(0.95 if streams <= 8 else 0.92, least=True)
    return Target(1.25, least=True) if other == NAMES[1] and title.startswith("two-layer") else None
