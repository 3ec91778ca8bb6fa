"""Streams of named events (wire-spec 8.6, 8.8)."""

from collections.abc import Mapping
from types import MappingProxyType

from mlx_ollama.dialects.answers import PLAIN_JSON, SSE, SSE_COMMENT
from mlx_ollama.types import Event

EVENT_STREAM: Mapping[str, str] = MappingProxyType({"cache-control": "no-cache", "content-type": SSE})


def named_event(name: str, data: bytes) -> bytes:
    """One event; `data` is JSON, which has no line ends."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


class NamedEvents:
    """What the answers of both dialects with named events have in common."""

    stream_headers: Mapping[str, str] = EVENT_STREAM
    whole_headers: Mapping[str, str] = {"content-type": PLAIN_JSON}

    def broken(self, message: str) -> bytes:
        """Nothing: an answer that cannot go on just stops (wire-spec 8.1)."""
        return b""

    def heartbeat(self) -> bytes:
        return SSE_COMMENT

    def is_plain(self, first: Event) -> bool:
        return False
