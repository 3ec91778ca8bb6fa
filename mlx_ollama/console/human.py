"""Sizes, times and durations in the words that Ollama's command line has for them."""

_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "KB"))
_EXACT_FROM = 10
"""So many units are told without decimals."""

_SECONDS_OF = {"second": 1, "minute": 60, "hour": 3600}
_HOURS_OF = {"day": 24, "week": 7 * 24, "month": 30 * 24, "year": 365 * 24}
_FOREVER_YEARS = 21
_NS = 1_000_000_000


def size(count: int) -> str:
    """Bytes: `1.2 GB`, `659 KB`, `12 B`; decimal units."""
    unit, name = next(((unit, name) for unit, name in _UNITS if count >= unit), (1, "B"))
    if count >= _EXACT_FROM * unit or count % unit == 0:
        return f"{count // unit} {name}"
    return f"{count / unit:.1f} {name}"


def moment(then: float, now: float) -> str:
    """A point in time as seen from another, both in seconds since the epoch: `2 hours ago`, `4 minutes from now`."""
    if then <= now:
        return f"{_distance(now - then)} ago"
    if then - now >= _FOREVER_YEARS * _HOURS_OF["year"] * _SECONDS_OF["hour"]:
        return "Forever"
    return f"{_distance(then - now)} from now"


def duration(nanoseconds: int) -> str:
    """As Go prints a duration: `1m2.5s`, `12.946059ms`, `29.464µs`."""
    if nanoseconds < 0:
        return f"-{duration(-nanoseconds)}"
    if nanoseconds < _NS:
        unit, name = next(
            ((unit, name) for unit, name in ((10**6, "ms"), (10**3, "µs")) if nanoseconds >= unit), (1, "ns")
        )
        return f"{_decimal(nanoseconds, unit)}{name}" if nanoseconds else "0s"
    minutes, rest = divmod(nanoseconds, 60 * _NS)
    hours, minutes = divmod(minutes, 60)
    in_front = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{in_front}{_decimal(rest, _NS)}s"


def time_left(seconds: float) -> str:
    """A short duration in whole seconds: `1m20s`."""
    return duration(int(seconds) * _NS)


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    fraction = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{fraction}" if fraction else str(whole)


def _distance(seconds: float) -> str:
    if seconds < 1:
        return "Less than a second"
    if seconds < _SECONDS_OF["minute"]:
        return _counted(int(seconds), "second")
    if seconds < 2 * _SECONDS_OF["minute"]:
        return "About a minute"
    if seconds < _SECONDS_OF["hour"]:
        return _counted(int(seconds // _SECONDS_OF["minute"]), "minute")
    # Half up, as Go rounds; Python would round to even.
    hours = int(seconds / _SECONDS_OF["hour"] + 0.5)
    if hours == 1:
        return "About an hour"
    unit = "hour"
    for longer, length in _HOURS_OF.items():
        if hours < 2 * length:
            break
        unit = longer
    return _counted(hours // _HOURS_OF.get(unit, 1), unit)


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit}{'' if count == 1 else 's'}"
