"""What becomes known of one request while it is served, for its line in the log."""

import re
import secrets
import time
from collections.abc import MutableMapping
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlx_ollama.errors import MlxOllamaError
from mlx_ollama.types import Call, Delta, Done, Usage

if TYPE_CHECKING:
    from mlx_ollama.service import Events

_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}")
_MILLISECONDS = 1000

LONGEST = 300
"""Characters of what a client has named: a name may be as long as a body."""

_NANOSECONDS = 1_000_000


@dataclass
class RequestRecord:
    """One request. Times are seconds of the monotonic clock, None for what has not happened."""

    id: str
    began: float = field(default_factory=time.monotonic)
    read: float | None = None
    """The whole body was here."""
    asked: float | None = None
    """No policy held it back any more."""
    first: float | None = None
    """The first piece of the answer was here."""
    usage: Usage | None = None
    error: str = ""
    is_over: bool = False

    def has_been_read(self) -> None:
        self.read = time.monotonic()

    def reaches_the_endpoint(self) -> None:
        self.asked = time.monotonic()

    async def watched(self, events: "Events") -> "Events":
        """The same events, of which the times and counts are noted."""
        async with aclosing(events):
            try:
                async for event in events:
                    if self.first is None and isinstance(event, Delta):
                        self.first = time.monotonic()
                    elif isinstance(event, Done):
                        self.usage = event.usage
                    yield event
            except MlxOllamaError as error:
                self.error = error.message
                raise

    def facts(self, call: Call | None) -> dict[str, Any]:
        """What is known, for the log: counts of tokens and times in milliseconds.

        `queue_ms` is from the end of the request's body to the start of work on it, `load_ms` the wait for its model,
        `first_token_ms` and `total_ms` count from the request's arrival.
        """
        usage = self.usage
        facts = {
            "model": call.model[:LONGEST] if call is not None else None,
            "tokens_in": usage.prompt_tokens if usage else None,
            "tokens_out": usage.eval_tokens if usage else None,
            "queue_ms": self._between(self.read or self.began, self.asked),
            "load_ms": round(usage.load_ns / _NANOSECONDS, 1) if usage else None,
            "first_token_ms": self._between(self.began, self.first),
            "total_ms": self._between(self.began, time.monotonic()),
            "error": self.error[:LONGEST] or None,
        }
        return {name: fact for name, fact in facts.items() if fact is not None}

    @staticmethod
    def _between(start: float, end: float | None) -> float | None:
        return None if end is None else round((end - start) * _MILLISECONDS, 1)


current: ContextVar[RequestRecord | None] = ContextVar("current", default=None)
"""The request in whose service this code runs, so that any line of the log can name it."""


def sane_id(wanted: str) -> str:
    """The client's own id of a request if it can stand in a log and in a header, else nothing."""
    return wanted if _SANE_ID.fullmatch(wanted) else ""


def new_id() -> str:
    return secrets.token_hex(8)


def record_of(scope: MutableMapping[str, Any]) -> RequestRecord:
    """The record of a request, made anew where nobody keeps one."""
    state: dict[str, Any] = scope.setdefault("state", {})
    if "record" not in state:
        state["record"] = RequestRecord(new_id())
    record: RequestRecord = state["record"]
    return record
