"""Every recorded exchange, against a live server. Cases of one file run in its order, in one process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.compat.differences import DIFFERENCES
from tests.compat.recordings import cases, differences, pending
from tests.support.server import Server, serving


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("empty")) as server:
        yield server


@pytest.fixture(scope="module")
def recorded(demo_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The demo model on a server of its own: the file is a story, and ps depends on what came before."""
    home = tmp_path_factory.mktemp("recorded") / "home"
    home.symlink_to(demo_home)
    with serving(home) as server:
        yield server


def _judge(url: str, case: dict[str, Any]) -> None:
    problems = differences(url, case)
    if case["name"] in pending():
        assert problems, f"{case['name']} passes: take it off compat_fixtures/pending"
    elif case["name"] in DIFFERENCES:
        # The text differs, and with it why it ends.
        assert all("done_reason" in problem for problem in problems)
    else:
        assert not problems


@pytest.mark.xdist_group("edge")
@pytest.mark.parametrize("case", cases("edge"), ids=lambda case: case["name"])
def test_edge(empty: Server, case: dict[str, Any]) -> None:
    _judge(empty.url, case)


@pytest.mark.real
@pytest.mark.xdist_group("inference")
@pytest.mark.parametrize("case", cases("inference"), ids=lambda case: case["name"])
def test_inference(recorded: Server, case: dict[str, Any]) -> None:
    _judge(recorded.url, case)


def test_pending_names_only_recorded_cases() -> None:
    names = {case["name"] for file in ("edge", "inference") for case in cases(file)}
    assert pending() <= names
