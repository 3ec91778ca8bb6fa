"""Figures in words, as Ollama's command line was seen to write them."""

import pytest

from mlx_ollama.console import human

MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 KB"),
        (1500, "1.5 KB"),
        (9999, "10.0 KB"),
        (659_999, "659 KB"),
        (10**6, "1 MB"),
        (999_999_999, "999 MB"),
        (1_250_000_000, "1.2 GB"),
        (3_300_000_000_000, "3.3 TB"),
        (10**15, "1000 TB"),
    ],
)
def test_sizes(count: int, words: str) -> None:
    assert human.size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.5, "Less than a second"),
        (1.5, "1 second"),
        (59, "59 seconds"),
        (MINUTE, "About a minute"),
        (2 * MINUTE, "2 minutes"),
        (HOUR - 1, "59 minutes"),
        (HOUR, "About an hour"),
        (1.5 * HOUR, "2 hours"),
        (DAY, "24 hours"),
        (2 * DAY, "2 days"),
        (13 * DAY, "13 days"),
        (14 * DAY, "2 weeks"),
        (59 * DAY, "8 weeks"),
        (60 * DAY, "2 months"),
        (365 * DAY, "12 months"),
        (730 * DAY, "2 years"),
    ],
)
def test_moments(seconds: float, words: str) -> None:
    now = 2_000_000_000.0
    assert human.moment(now - seconds, now) == f"{words} ago"
    assert human.moment(now + seconds, now) == f"{words} from now"


def test_for_ever() -> None:
    assert human.moment(1e10, 0) == "Forever"
    assert human.moment(0, 1e10) == "317 years ago"
    assert human.moment(20.9 * 365 * DAY, 0) == "20 years from now"


@pytest.mark.parametrize(
    ("nanoseconds", "words"),
    [
        (0, "0s"),
        (999, "999ns"),
        (29_464, "29.464µs"),
        (12_946_059, "12.946059ms"),
        (1_500_000_000, "1.5s"),
        (61 * 10**9, "1m1s"),
        (3600 * 10**9, "1h0m0s"),
        (3661_500_000_000, "1h1m1.5s"),
        (-1_500_000_000, "-1.5s"),
    ],
)
def test_durations(nanoseconds: int, words: str) -> None:
    assert human.duration(nanoseconds) == words
