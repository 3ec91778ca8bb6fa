"""Where the events of one request wait between a worker's frames and the task that sends them on."""

import asyncio

from mlx_ollama.types import Delta, Event, Recalled, Vectors

LARGEST_BACKLOG = 1024
"""Events that wait for a slow reader; twice as many are joined to half as many, so none is lost."""


class Mailbox:
    """Events of one request between the worker's frames and the task that sends them on."""

    def __init__(self) -> None:
        self._events: list[Event | Recalled | Vectors | Exception] = []
        self._waiter: asyncio.Future[None] | None = None

    def put(self, event: Event | Recalled | Vectors | Exception) -> None:
        """Add an event; never waits."""
        self._events.append(event)
        if isinstance(event, Delta) and len(self._events) >= 2 * LARGEST_BACKLOG:
            recent = self._events[LARGEST_BACKLOG:]
            pieces = [piece for piece in recent if isinstance(piece, Delta)]
            # Whatever is no piece is the end of the answer, and comes last.
            rest = [other for other in recent if not isinstance(other, Delta)]
            self._events[LARGEST_BACKLOG:] = [Delta.joined(pieces), *rest]
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> list[Event | Recalled | Vectors | Exception]:
        """Everything that has arrived, at least one event."""
        if not self._events:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        events, self._events = self._events, []
        return events
