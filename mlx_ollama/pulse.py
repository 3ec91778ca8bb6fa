"""Whether a worker still answers: busy is not dead, and silent is not busy."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Care:
    """How a worker is looked after, in seconds.

    It is asked whether it lives every `heartbeat`, taken for dead if it has not answered for `patience`, and has
    `grace` between SIGTERM and SIGKILL.
    """

    heartbeat: float
    patience: float
    grace: float


class Pulse:
    """Counts the questions that stay without an answer.

    Questions and not seconds, so that a gateway that was itself held up, with the answers waiting in its socket, does
    not take every worker for dead.
    """

    def __init__(self, care: Care) -> None:
        self._heartbeat = care.heartbeat
        self._most = max(1, math.ceil(care.patience / care.heartbeat))
        self._unanswered = 0

    def heard(self) -> None:
        """It has said something, whatever it was."""
        self._unanswered = 0

    async def stopped(self, ask: Callable[[], None]) -> None:
        """Ask for as long as there are answers; returns when they have not come for too long."""
        while self._unanswered < self._most:
            ask()
            self._unanswered += 1
            await asyncio.sleep(self._heartbeat)
