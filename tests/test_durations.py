import pytest

from mlx_ollama.durations import FOREVER_SECONDS, keep_alive_seconds, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("300ms", 0.3), ("1.5h", 5400), ("2h45m", 9900), ("0", 0), ("0s", 0), ("-1m", -60), ("+5s", 5), ("1us", 1e-6)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("soon", 'time: invalid duration "soon"'),
        ("", 'time: invalid duration ""'),
        ("5", 'time: missing unit in duration "5"'),
        ("5x", 'time: unknown unit "x" in duration "5x"'),
        (".s", 'time: invalid duration ".s"'),
        ("--5s", 'time: invalid duration "--5s"'),
        ("9999999h", 'time: invalid duration "9999999h"'),
    ],
)
def test_bad_durations(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_duration(text)
    assert str(caught.value) == message


def test_a_duration_of_a_million_terms_takes_no_time() -> None:
    assert parse_duration("0s" * 1_000_000) == 0


def test_negative_keep_alive_is_for_ever() -> None:
    assert keep_alive_seconds(-1) == FOREVER_SECONDS
    assert keep_alive_seconds(12.5) == 12.5
