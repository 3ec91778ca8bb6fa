"""The table of outcomes is that of the tests that there are."""

from pathlib import Path

import pytest

from tests.faults.outcomes import FILE, finding_of, written


def test_the_table_has_no_other_rows(request: pytest.FixtureRequest) -> None:
    modules = set(Path(__file__).parent.glob("test_matrix_*.py"))
    items = [item for item in request.session.items if item.path in modules]
    if {item.path for item in items} != modules or request.config.getoption("outcomes"):
        pytest.skip("only a run of all of them can tell")
    findings = [found for item in items if (found := finding_of(item))]
    assert written() <= {row.text for found in findings for row in found.rows}
    assert len({(found.fault, found.when, found.module) for found in findings}) == len(findings), "each row is another"
    assert FILE.read_text().count("\n| ") == len(findings) + 1
