import io
import time

import pytest

from mlx_ollama.console.progress import Progress, Rate, spinner


class Screen(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        """What stands there in the end: each line as it was last drawn."""
        return [line.split("\r\x1b[K")[-1] for line in self.getvalue().split("\n")]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_a_bar_has_percentage_size_rate_and_time_left() -> None:
    screen, clock = Screen(), Clock()
    with Progress(screen, clock) as progress:
        progress.tell("reading", 0, 4_000_000)
        clock.now += 2
        progress.tell("reading", 1_000_000, 4_000_000)
        (line,) = screen.lines
        assert line.startswith("reading  25% ▕█")
        assert line.endswith("▏ 1 MB/4 MB  500 KB/s  6s")
        assert len(line) == 79
        clock.now += 0.01
        progress.tell("reading", 4_000_000, 4_000_000)
        progress.tell("success")
    assert screen.lines[0].startswith("reading 100% ▕█")
    assert screen.lines[1:] == ["success", ""]


def test_what_comes_too_quickly_is_not_drawn() -> None:
    screen, clock = Screen(), Clock()
    progress = Progress(screen, clock)
    for done in range(1, 100):
        progress.tell("reading", done, 1000)
    assert screen.getvalue().count("\r") == 1


def test_elsewhere_each_step_is_a_line() -> None:
    stream = io.StringIO()
    with Progress(stream, Clock()) as progress:
        for done in range(5):
            progress.tell("reading", done, 4)
        progress.tell("success")
    assert stream.getvalue() == "reading\nsuccess\n"


def test_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    screen = Screen()
    Progress(screen, Clock()).tell("reading something long", 5, 10)
    assert screen.lines == ["reading something long  50%  "]


def test_a_rate_forgets() -> None:
    clock = Clock()
    rate = Rate(clock)
    rate.note(0)
    assert rate.per_second == 0
    for count in (100, 200, 300, 1300, 2300, 3300, 4300, 5300, 6300):
        clock.now += 1
        rate.note(count)
    assert rate.per_second == 1000


def test_a_spinner_turns_on_terminals_alone() -> None:
    screen, stream = Screen(), io.StringIO()
    with spinner(screen), spinner(stream):
        deadline = time.monotonic() + 10
        while "⠋" not in screen.getvalue() and time.monotonic() < deadline:
            time.sleep(0.02)
    assert "⠋" in screen.getvalue()
    assert screen.getvalue().endswith("\r\x1b[K\x1b[?25h")
    assert stream.getvalue() == ""
