"""When a model may be loaded again whose worker has died, or has not come up."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from mlx_ollama.errors import LoadPaused
from mlx_ollama.supervision import Backoff, CircuitBreaker

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 300.0
"""Deaths longer ago are not held against a model any more; as long as the supervisor counts those of a gateway."""


@dataclass
class _History:
    """What has happened to the workers of one model lately. `reason` is why the last start has failed."""

    breaker: CircuitBreaker
    deaths: deque[float] = field(default_factory=deque)
    is_down: bool = False
    reason: str = ""


class Recovery:
    """Decides for each model, by the digest of its weights, about the next start.

    The first replacement comes at once, after more deaths there is a pause by `backoff`: min(2·2ⁿ, 60) s as it is
    usually. Starts that fail open a breaker of `new_breaker`: after five in a row none is tried for a minute, then one.
    `clock` counts seconds.
    """

    def __init__(
        self,
        backoff: Backoff | None = None,
        new_breaker: Callable[[], CircuitBreaker] = CircuitBreaker,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backoff = backoff or Backoff()
        self._new_breaker = new_breaker
        self._clock = clock
        self._histories: dict[str, _History] = {}

    def died(self, key: str) -> None:
        """A worker has ended that nobody has told to."""
        history = self._history(key)
        history.deaths.append(self._clock())
        history.is_down = True

    def failed(self, key: str, reason: str) -> None:
        """A start has come to nothing."""
        history = self._history(key)
        history.reason = reason
        history.breaker.failed(self._clock())
        if history.breaker.is_open:
            logger.error("no worker is started for %.0f s: %s", history.breaker.open_for, reason)

    def started(self, key: str) -> None:
        """A worker is ready."""
        history = self._history(key)
        history.breaker.succeeded()
        history.is_down = False
        if not history.deaths:
            del self._histories[key]

    def is_restart(self, key: str) -> bool:
        """Whether the next start replaces a worker that has died."""
        return key in self._histories and self._histories[key].is_down

    def forgives(self, key: str) -> bool:
        """Whether a start whose worker has died may be made once more for those who wait: it was the only death lately,
        and there may be another reason for it than the model.
        """
        history = self._history(key)
        return len(history.deaths) == 1 and not history.breaker.is_open

    def admit(self, key: str, name: str) -> None:
        """Let a start be tried; that of an open breaker's trial is taken by this.

        Raises:
            LoadPaused: while none is.
        """
        if (history := self._histories.get(key)) is None:
            return
        now = self._clock()
        if not history.breaker.allow(now):
            raise LoadPaused(
                f"{name} has failed to load {history.breaker.failures} times in a row, and is not tried again before "
                f"{math.ceil(history.breaker.retry_in(now))} s have passed; the last time: {history.reason}",
                retry_after=max(1, math.ceil(history.breaker.retry_in(now))),
            )

    def pause(self, key: str) -> float:
        """Seconds to wait before the next start."""
        if key not in self._histories:
            return 0.0
        deaths = self._history(key).deaths
        return max(0.0, deaths[-1] + self._backoff.after(len(deaths)) - self._clock()) if deaths else 0.0

    def _history(self, key: str) -> _History:
        history = self._histories.setdefault(key, _History(self._new_breaker()))
        while history.deaths and self._clock() - history.deaths[0] >= WINDOW_SECONDS:
            history.deaths.popleft()
        return history
