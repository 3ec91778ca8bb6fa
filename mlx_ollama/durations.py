"""Go's durations: `1h30m`, `300ms`, `1.5h` (wire-spec 3.4)."""

import re

FOREVER_SECONDS = float((1 << 63) - 1) / 1e9
"""What a negative keep-alive means: Go's longest duration, about 292 years."""

_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TERM = re.compile(r"([0-9]*)(\.[0-9]*)?([^0-9.]*)")


def parse_duration(text: str) -> float:
    """Seconds of a Go duration; the sign is kept.

    Raises:
        ValueError: with the text of Go's `time.ParseDuration`.
    """
    rest = text[1:] if text[:1] in ("+", "-") else text
    sign = -1.0 if text.startswith("-") else 1.0
    if rest == "0":
        return 0.0
    if not rest:
        raise ValueError(f"time: invalid duration {_quote(text)}")
    seconds, at = 0.0, 0
    while at < len(rest):
        term = _TERM.match(rest, at)
        whole, fraction, unit = term.groups() if term else ("", None, "")
        if not whole and (fraction or ".") == ".":
            raise ValueError(f"time: invalid duration {_quote(text)}")
        if not unit:
            raise ValueError(f"time: missing unit in duration {_quote(text)}")
        if unit not in _UNIT_SECONDS:
            raise ValueError(f"time: unknown unit {_quote(unit)} in duration {_quote(text)}")
        seconds += float(f"{whole or 0}{fraction or ''}") * _UNIT_SECONDS[unit]
        at = term.end() if term else len(rest)
    if seconds > FOREVER_SECONDS:
        raise ValueError(f"time: invalid duration {_quote(text)}")
    return sign * seconds


def keep_alive_seconds(seconds: float) -> float:
    """A keep-alive as it counts: negative means for ever."""
    return FOREVER_SECONDS if seconds < 0 else min(seconds, FOREVER_SECONDS)


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
