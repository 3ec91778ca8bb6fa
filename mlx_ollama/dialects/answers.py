"""What every dialect has to give: bytes for one answer, whole or streamed, and bytes for an error."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from mlx_ollama.types import Call, Embeddings, Event, TokenLogprob

PLAIN_JSON = "application/json"
REFUSAL_JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"

SSE_COMMENT = b": keep-alive\n\n"
"""The heartbeat of server-sent events: a line that readers of the format pass over."""


class Whole(Protocol):
    """The wire form of an answer as one body, complete with its line end.

    Who has no more than this, or than `Vectors`, streams nothing and has no last words: what breaks off is cut off,
    even where another server sent it in pieces.
    """

    whole_headers: Mapping[str, str]

    def whole(self, events: Sequence[Event]) -> bytes: ...


class Answers(Whole, Protocol):
    """The wire form of an answer that may be streamed, too.

    A stream is what `event` gives for each event, or `broken` in the place of the rest; `failed` in the place of it all
    where nothing but heartbeats was sent: the reference would have refused with a status then. Everything is complete
    with its line ends and frames; empty bytes are not sent.
    """

    stream_headers: Mapping[str, str]

    def event(self, event: Event) -> bytes: ...

    def broken(self, message: str) -> bytes: ...

    def failed(self, message: str) -> bytes: ...

    def heartbeat(self) -> bytes:
        """A piece of a stream that says nothing, for whoever takes silence for death."""

    def is_plain(self, first: Event) -> bool:
        """Whether an answer that begins with this event is one plain object even where a stream was asked for."""


class Vectors(Protocol):
    """The wire form of an answer to an `Embed` call."""

    whole_headers: Mapping[str, str]

    def vectors(self, embeddings: Embeddings) -> bytes: ...


Stage: TypeAlias = Literal["decoding", "checking", "answering"]
"""How far a request came before it failed: its body, its call, or the answer that was about to begin."""


@dataclass(frozen=True)
class Refusal:
    """An error as a dialect words it."""

    body: bytes
    headers: Mapping[str, str]


Refuse = Callable[[int, str, Stage], Refusal]
"""Status and message to an error; the status itself is for the server to send."""


@dataclass(frozen=True)
class Door:
    """How a path is spoken to: bytes (and headers, by lower-case name) to a call, a call to its answer's encoder."""

    decode: Callable[[bytes, Mapping[str, str]], Call]
    answers: Callable[[Any], Answers | Whole | Vectors]
    refuse: Refuse


def logprob(entry: TokenLogprob) -> dict[str, Any]:
    """A token's likelihood, in the one form that every dialect has (wire-spec 2.1, 8.2)."""
    members: dict[str, Any] = {"token": entry.token, "logprob": entry.logprob}
    spelled = {"bytes": list(entry.bytes)} if entry.bytes else {}
    return members | spelled | ({"top_logprobs": [logprob(other) for other in entry.top]} if entry.top else {})
