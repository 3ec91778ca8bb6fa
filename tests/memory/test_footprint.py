"""What one process holds, and when that is too much."""

import os
import struct
import subprocess
import sys

import pytest

from mlx_ollama.memory.footprint import from_rusage, from_status, system_footprint
from mlx_ollama.memory.growth import FIRST_USES, LEAST_BYTES, Weighed

MB = 1 << 20
HOLDER = "import sys; held = b'x' * (int(sys.argv[1]) << 20); print(flush=True); sys.stdin.read()"


def _footprint_of(mebibytes: int) -> int:
    read = system_footprint()
    assert read is not None
    command = [sys.executable, "-c", HOLDER, str(mebibytes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        found = read(process.pid)
        process.communicate()
    assert found is not None
    return found


def test_what_a_process_takes_is_seen() -> None:
    assert abs(_footprint_of(100) - _footprint_of(0) - 100 * MB) < 2 * MB


def test_a_process_that_is_gone_has_none() -> None:
    read = system_footprint()
    assert read is not None
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert read(process.pid) is None
    assert read(os.getpid())


def test_linux_counts_what_no_file_stands_behind() -> None:
    status = "Name:\tx\nVmRSS:\t 900 kB\nRssAnon:\t 200 kB\nRssFile:\t 700 kB\nVmSwap:\t 50 kB\nThreads:\t3\n"
    assert from_status(status) == 250 * 1024
    # A process that has ended and is not waited for.
    assert from_status("Name:\tx\nState:\tZ (zombie)\n") == 0


def test_macos_has_a_figure_of_its_own() -> None:
    usage = struct.pack("=16s10Q", b"uuid", *range(1, 11))
    assert len(usage) == 96
    assert from_rusage(usage) == 8


@pytest.mark.parametrize(
    ("at_first", "own", "percent", "is_beyond"),
    [
        (1000 * MB, 1500 * MB, 50, False),
        (1000 * MB, 1501 * MB, 50, True),
        (1000 * MB, 1501 * MB, 60, False),
        (100 * MB, 100 * MB + LEAST_BYTES, 50, False),
        (100 * MB, 101 * MB + LEAST_BYTES, 50, True),
        (100 * MB, 90_000 * MB, 0, False),
    ],
)
def test_growth_has_a_share_and_a_least(at_first: int, own: int, percent: float, *, is_beyond: bool) -> None:
    weighed = Weighed()
    weighed.learn(1, at_first)
    assert weighed.is_beyond(own, percent) is is_beyond


def test_the_first_answers_say_what_a_worker_may_hold() -> None:
    weighed = Weighed(began=10, looked=10)
    assert not weighed.is_due(10)
    assert weighed.is_due(11)
    for uses, own in ((11, 100), (12, 300), (13, 200), (10 + FIRST_USES, 250), (11 + FIRST_USES, 900)):
        weighed.learn(uses, own)
    assert weighed.at_first == 300


def test_who_was_never_idle_before_is_weighed_late() -> None:
    weighed = Weighed()
    weighed.learn(500, 400)
    weighed.learn(501, 900)
    assert weighed.at_first == 400
