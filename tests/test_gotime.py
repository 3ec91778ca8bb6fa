import os
import time
from collections.abc import Iterator

import pytest

from mlx_ollama import gotime

MOMENT = 1_795_249_232_477_859_781


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    monkeypatch.setitem(os.environ, "TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_trailing_zeros_are_trimmed() -> None:
    assert gotime.utc(MOMENT) == "2026-11-21T08:20:32.477859781Z"
    assert gotime.utc(MOMENT - 781) == "2026-11-21T08:20:32.477859Z"
    assert gotime.utc(MOMENT // 10**9 * 10**9) == "2026-11-21T08:20:32Z"


@pytest.mark.parametrize(
    ("zone", "written"),
    [("UTC", "08:20:32.477859781Z"), ("XXX+8", "00:20:32.477859781-08:00"), ("XXX-5:30", "13:50:32.477859781+05:30")],
    indirect=["zone"],
)
def test_local_times_carry_their_offset(zone: None, written: str) -> None:
    assert gotime.local(MOMENT).endswith(written)
