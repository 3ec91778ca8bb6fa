"""Whether a worker still answers: busy is not dead, and silent is not busy."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass

STEP_PATIENCE = 12
"""One step of a model may take so many times the patience for an answer: a long one is no sign of death."""


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
    """Counts the questions that stay without an answer, and the answers that come from one and the same step.

    Questions and answers, and not seconds, so that a gateway that was itself held up, with the answers waiting in its
    socket, does not take every worker for dead.
    """

    def __init__(self, care: Care) -> None:
        self._heartbeat = care.heartbeat
        self._patience = care.patience
        self._step = 0
        self._at_step = 0
        self._most = max(1, math.ceil(care.patience / care.heartbeat))
        self._unanswered = 0

    def heard(self) -> None:
        """It has said something, whatever it was."""
        self._unanswered = 0

    def at_step(self, number: int) -> None:
        """It answers from the middle of a step; 0 is between two."""
        self._at_step = self._at_step + 1 if number and number == self._step else 0
        self._step = number

    async def stopped(self, ask: Callable[[], None]) -> str:
        """Ask for as long as there are answers, and the model gets on.

        What is wrong, in words, once answers have not come for too long, or a step does not end.
        """
        while True:
            if self._unanswered >= self._most:
                return f"has not answered for {self._patience:g} s"
            if self._at_step >= STEP_PATIENCE * self._most:
                return f"has been at one step for {STEP_PATIENCE * self._patience:g} s"
            ask()
            self._unanswered += 1
            await asyncio.sleep(self._heartbeat)
