"""What is measured of answers, as their events pass."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from mlx_ollama.types import Delta, Done, Event, Leased, Recalled, Usage


class Meter(Protocol):
    """Takes figures, by a model's display name."""

    def first_token(self, model: str, seconds: float) -> None:
        """An answer has begun, so long after its request was taken up; loading counts."""
        ...

    def recalled(self, model: str, tokens: int) -> None:
        """So many tokens of a prompt were remembered; 0 for none."""
        ...

    def answered(self, model: str, usage: Usage) -> None:
        """A request was answered to its end."""
        ...


async def measured(
    answer: AsyncGenerator[Event | Leased, None], meter: Meter, *, model: str, entered: int
) -> AsyncGenerator[Event | Leased, None]:
    """The same events, of which the meter learns. `entered` is in nanoseconds of the monotonic clock."""
    is_first = True
    async with aclosing(answer) as events:
        async for event in events:
            match event:
                case Recalled():
                    meter.recalled(model, event.reused)
                case Delta() if is_first:
                    meter.first_token(model, (time.monotonic_ns() - entered) / 1e9)
                    is_first = False
                case Done(usage=Usage() as usage):
                    meter.answered(model, usage)
            yield event
