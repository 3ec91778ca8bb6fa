"""The table of faults and what comes of them: made by a run (`make outcomes`), and held against every other run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("OUTCOMES.md")

PREFACE = """# What comes of faults

Made by `make outcomes`, and compared with what every run of the tests finds. Each row is a fault that is really brought
about, in real processes, at the moment that the second column names. In every row, besides:

- `/health` answers within a second, while it happens and after;
- no permit leaks: the requests under way are back at none;
- the next good request is answered, with the text that it always had;
- nothing that was stored is lost.

(Where the fault is the end of the gateway itself, all this is asked of the next one.) *Answered* is an answer in full,
its text unchanged; *told* is an error in the caller's dialect: a status before the first byte, a last line after it.

*And SIGTERM* is SIGTERM to the gateway while the fault is under way: it ends within its budget with exit status 0, no
worker is left, nothing that was stored is lost, and the next gateway answers as this one did.

| fault | when | what comes of it | shown by |
|---|---|---|---|
"""


@dataclass(frozen=True, order=True)
class Row:
    """`outcome` is what a run has found."""

    module: str
    fault: str
    when: str
    outcome: str

    @property
    def text(self) -> str:
        return f"| {self.fault} | {self.when} | {self.outcome} | `{self.module}` |"


class Finding:
    """What a test with the mark `fault(fault, when, *outcomes)` is about; `settle` says which outcome it was."""

    def __init__(self, module: str, marker: pytest.Mark) -> None:
        self.module = module
        self.fault, self.when, *allowed = marker.args
        self.allowed: Sequence[str] = allowed
        self.outcome = allowed[0]

    def settle(self, outcome: str) -> None:
        assert outcome in self.allowed
        self.outcome = outcome

    @property
    def row(self) -> Row:
        return Row(self.module, self.fault, self.when, self.outcome)

    @property
    def rows(self) -> list[Row]:
        """Every row that the table may have for it."""
        return [Row(self.module, self.fault, self.when, outcome) for outcome in self.allowed]


def finding_of(item: pytest.Item) -> Finding | None:
    marker = item.get_closest_marker("fault")
    return Finding(item.path.name, marker) if marker else None


def written() -> set[str]:
    """The rows that the table has."""
    return set(_lines())


def write(rows: Iterable[Row]) -> None:
    """Replace what the table has of the rows' modules, and of those that are gone."""
    new = sorted(rows, key=lambda row: row.module)
    others = {file.name for file in FILE.parent.glob("test_*.py")} - {row.module for row in new}
    old = [line for line in _lines() if line.rsplit("`", 2)[-2] in others]
    lines = sorted([*old, *(row.text for row in new)], key=lambda line: line.rsplit("`", 2)[-2])
    FILE.write_text(PREFACE + "".join(f"{line}\n" for line in lines))


def _lines() -> list[str]:
    lines = FILE.read_text().splitlines() if FILE.is_file() else []
    return [line for line in lines if line.startswith("| ") and not line.startswith("| fault |")]


class Recorder:
    """A plug-in of the process that sees all reports: when the run is over it writes the table.

    Rows of a module in which something has failed stay as they were.
    """

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.add(Path(report.fspath).name)
        if report.when == "teardown":
            self._rows += [row for name, row in report.user_properties if name == "fault" and isinstance(row, Row)]

    def pytest_sessionfinish(self) -> None:
        write(row for row in self._rows if row.module not in self._failed)
