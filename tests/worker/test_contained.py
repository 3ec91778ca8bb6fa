"""Around mlx-lm: what it prints is no answer of ours, and its exit is not the end of the process."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_ollama.worker.contained import GaveUp, contained
from tests.support.server import clean_environment

STOPPED_INSIDE = """
import os, signal
from mlx_ollama.worker.contained import contained
from mlx_ollama.worker.reports import reporting

def work(report):
    with contained():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

raise SystemExit(reporting(work))
"""


def test_what_is_printed_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with contained():
        print("a warning")
    assert capsys.readouterr() == ("", "a warning\n")


@pytest.mark.parametrize(
    ("printed", "code", "reason"),
    [
        ("", 3, "mlx-lm gave up (exit status 3)"),
        ("", None, "mlx-lm gave up (exit status 0)"),
        ("first\nit needs more\n\n", 1, "mlx-lm gave up (exit status 1): it needs more"),
        ("first\n", "no such thing", "mlx-lm gave up (exit status 1): no such thing"),
    ],
)
def test_an_exit_is_an_error_with_the_last_words(printed: str, code: int | str | None, reason: str) -> None:
    with pytest.raises(GaveUp) as caught:
        _exit(printed, code)
    assert str(caught.value) == reason


@contained()
def _exit(printed: str, code: int | str | None) -> None:
    print(printed, end="")
    sys.exit(code)


def test_who_is_told_to_end_ends(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_INSIDE],
        env=clean_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGTERM, "", "")
