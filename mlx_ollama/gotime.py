"""Timestamps as Go writes them: RFC 3339, up to nine digits of fraction, trailing zeros trimmed (wire-spec 0.4)."""

import time
from datetime import UTC, datetime
from functools import lru_cache

_NS = 1_000_000_000


def utc(nanoseconds: int) -> str:
    """Nanoseconds since the epoch in UTC, as `created_at` has it."""
    return f"{_utc_second(nanoseconds // _NS)}{_fraction(nanoseconds)}Z"


def local(nanoseconds: int) -> str:
    """Nanoseconds since the epoch in the server's zone, as `modified_at` and `expires_at` have it."""
    moment = datetime.fromtimestamp(nanoseconds // _NS, UTC).astimezone()
    offset = moment.strftime("%z")
    zone = "Z" if int(offset[1:]) == 0 else f"{offset[:3]}:{offset[3:5]}"
    return f"{moment:%Y-%m-%dT%H:%M:%S}{_fraction(nanoseconds)}{zone}"


def now() -> int:
    """The wall clock in nanoseconds."""
    return time.time_ns()


@lru_cache(maxsize=2)
def _utc_second(seconds: int) -> str:
    """Every piece of a stream has a timestamp, and most of them share their second."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def _fraction(nanoseconds: int) -> str:
    digits = f"{nanoseconds % _NS:09d}".rstrip("0")
    return f".{digits}" if digits else ""
