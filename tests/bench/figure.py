"""A figure beside its target: the median of what the rounds gave."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """What a figure shall be: at most `value`, or at least that if `least` is true."""

    value: float
    least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.value if self.least else value <= self.value

    def beside(self, value: float, digits: int) -> str:
        """The comparison in the words of the tables: `≤ 0.25 met`."""
        sign = "≥" if self.least else "≤"
        return f"{sign} {self.value:.{digits}f} {'met' if self.met(value) else 'MISSED'}"


@dataclass(frozen=True)
class Figure:
    """`values` has one of every round."""

    what: str
    values: Sequence[float]
    unit: str = ""
    target: Target | None = None
    digits: int = 2

    def show(self) -> None:
        value = statistics.median(self.values)
        told = self.target.beside(value, self.digits) if self.target else ""
        spread = f"({min(self.values):.{self.digits}f} to {max(self.values):.{self.digits}f})"
        print(f"  {self.what:52}{value:9.{self.digits}f} {self.unit:3} {spread:20} {told}".rstrip(), flush=True)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Round by round, since a noisy machine is the same for both only within a round."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
