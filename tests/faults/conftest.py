import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.outcomes import Finding, finding_of, written
from tests.support.cli import import_model
from tests.support.server import Server, serving


@pytest.fixture(scope="session")
def slow_directory(shared_folder: Path) -> Path:
    """A model big enough that a long prompt takes seconds to read."""
    from tests.support.tiny import write_tiny_model  # noqa: PLC0415 - only some processes need mlx

    directory = shared_folder / "slow-model"
    with (shared_folder / "slow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "config.json").is_file():
            write_tiny_model(directory, hidden=768, layers=4, heads=8, context=65536)
    return directory


@pytest.fixture
def home(tmp_path: Path, tiny_directory: Path, slow_directory: Path) -> Path:
    """A home of its own with `tiny` and `slow`, for servers that are going to suffer."""
    for name, directory in (("tiny", tiny_directory), ("slow", slow_directory)):
        import_model(tmp_path, name, directory, "--parameter", "temperature=0")
    return tmp_path


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    with serving(home, "--context-length", "32768") as server:
        yield server


@pytest.fixture(autouse=True)
def finding(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Iterator[Finding | None]:
    """What a test with the mark `fault` has to say to the table, which must know it already."""
    found = finding_of(request.node)
    yield found
    if found is None:
        return
    if request.config.getoption("outcomes"):
        record_property("fault", found.row)
    else:
        known = {row.text for row in found.rows} & written()
        assert known, "make outcomes: the table has no such row"
