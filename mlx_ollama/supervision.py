"""When something that died is started again: pure decisions from events and the time at which they came.

Time is an argument everywhere, in seconds of a monotonic clock. The supervisor decides with these about the gateway,
and the gateway about its workers and about an upstream.
"""

from collections import deque
from dataclasses import dataclass, field

MOST_DOUBLINGS = 64
"""Past any sensible ceiling; a float would overflow some hundreds later."""


@dataclass
class RestartPolicy:
    """At most `restarts` in any `within` seconds."""

    restarts: int = 5
    within: float = 300.0
    _taken: deque[float] = field(default_factory=deque, init=False, repr=False)

    def allow(self, now: float) -> bool:
        """Whether a restart may be made now; one that may is counted."""
        if self.recent(now) >= self.restarts:
            return False
        self._taken.append(now)
        return True

    def recent(self, now: float) -> int:
        """How many restarts were made in the last `within` seconds."""
        while self._taken and now - self._taken[0] >= self.within:
            self._taken.popleft()
        return len(self._taken)


@dataclass(frozen=True)
class Backoff:
    """How long to wait before the next try: `first` seconds, doubled each time, never more than `most`."""

    first: float = 2.0
    most: float = 60.0

    def delay(self, repeats: int) -> float:
        """min(first · 2ⁿ, most) seconds, where n is `repeats`."""
        return min(self.first * 2.0 ** min(repeats, MOST_DOUBLINGS), self.most)

    def after(self, deaths: int) -> float:
        """Seconds to wait after so many deaths in a row: none after one, which may be chance, then `delay(0)` …"""
        return self.delay(deaths - 2) if deaths > 1 else 0.0


@dataclass
class CircuitBreaker:
    """Keeps from trying what keeps failing: `failures` in a row open it for `open_for` seconds, then one may try.

    Its success closes the breaker, its failure opens it again. A trial of which nothing is heard for `open_for` seconds
    counts as lost, and another one may try: a caller who has left must not keep it open for ever.
    """

    failures: int = 5
    open_for: float = 60.0
    _in_a_row: int = field(default=0, init=False, repr=False)
    _since: float | None = field(default=None, init=False, repr=False)
    """Since when no trial has been made; None while it is closed."""
    _on_trial: bool = field(default=False, init=False, repr=False)

    @property
    def is_open(self) -> bool:
        """Whether only a trial may pass, if anything."""
        return self._since is not None

    def allow(self, now: float) -> bool:
        """Whether one may try now. The trial of an open breaker is taken by this question."""
        if self._since is None:
            return True
        if now - self._since < self.open_for:
            return False
        self._since, self._on_trial = now, True
        return True

    def retry_in(self, now: float) -> float:
        """Seconds until `allow` says yes; 0 if it does now."""
        return 0.0 if self._since is None else max(0.0, self.open_for - (now - self._since))

    def succeeded(self) -> None:
        """What was tried works: the breaker is closed."""
        self._in_a_row, self._since, self._on_trial = 0, None, False

    def failed(self, now: float) -> None:
        """What was tried failed. Stragglers from before it opened do not keep an open breaker open for longer."""
        if self._since is None:
            self._in_a_row += 1
            if self._in_a_row < self.failures:
                return
        elif not self._on_trial:
            return
        self._since, self._on_trial = now, False
