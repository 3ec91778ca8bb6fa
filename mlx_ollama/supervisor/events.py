"""What a supervisor tells the world: events, and the bus that takes them to whoever wants to know."""

import json
import queue
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

Kind = Literal["started", "ready", "down", "restarted", "recovered", "gave_up", "stopped"]

MOST_WAITING = 1000
"""Events that a slow subscriber may be behind; later ones are lost to it."""


@dataclass(frozen=True)
class Event:
    """Something that happened to the gateway; `facts` can be said in JSON.

    `started` and `restarted`: there is a process. `ready` and `recovered`: it answers, for the first time or after it
    was `down`. `gave_up` and `stopped` are the last one of a supervisor.
    """

    kind: Kind
    facts: Mapping[str, Any]
    seconds: float = field(default_factory=time.time)

    def line(self) -> str:
        """One JSON object on one line, with a line end."""
        when = datetime.fromtimestamp(self.seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return json.dumps({"time": when, "event": self.kind, **self.facts}) + "\n"


class Subscriber(Protocol):
    """Is told every event, one after the other, in a thread of its own; it may take its time and may fail."""

    def __call__(self, event: Event) -> None: ...


class EventBus:
    """Tells every subscriber every event. No subscriber holds up the publisher or another subscriber."""

    def __init__(self) -> None:
        self._lanes: list[_Lane] = []

    def subscribe(self, subscriber: Subscriber) -> None:
        self._lanes.append(_Lane(subscriber))

    def publish(self, event: Event) -> None:
        for lane in self._lanes:
            lane.put(event)

    def close(self, within: float) -> None:
        """Let everyone hear the rest, for `within` seconds at most in all."""
        deadline = time.monotonic() + within
        for lane in self._lanes:
            lane.put(None)
        for lane in self._lanes:
            lane.join(max(0.0, deadline - time.monotonic()))


class _Lane:
    """A subscriber and the events that it has not heard yet."""

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber
        self._waiting: queue.Queue[Event | None] = queue.Queue(MOST_WAITING)
        # A daemon: a subscriber that hangs must not keep the supervisor from its end.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, event: Event | None) -> None:
        try:
            self._waiting.put_nowait(event)
        except queue.Full:
            return

    def join(self, within: float) -> None:
        self._thread.join(within)

    def _run(self) -> None:
        while (event := self._waiting.get()) is not None:
            try:
                self._subscriber(event)
            # Whatever a subscriber does wrong, it must hear the next event, and supervision must go on.
            except Exception as error:  # noqa: BLE001 - see above
                complain(f"{self._subscriber} failed on the event {event.kind!r}: {error}")


def complain(message: str) -> None:
    """A line for people on standard error, as far as there is one."""
    try:
        print(f"mlx-ollama supervise: {message}", file=sys.stderr, flush=True)  # noqa: T201 - its log
    except OSError:
        return
