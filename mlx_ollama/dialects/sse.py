"""Streams of named events (wire-spec 8.6, 8.8)."""

from collections.abc import Mapping
from types import MappingProxyType

EVENT_STREAM: Mapping[str, str] = MappingProxyType({"cache-control": "no-cache", "content-type": "text/event-stream"})


HEARTBEAT = b": keep-alive\n\n"
"""A comment, which readers of the format pass over: for whoever takes silence for death."""


def named_event(name: str, data: bytes) -> bytes:
    """One event; `data` is JSON, which has no line ends."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
