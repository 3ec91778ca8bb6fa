"""Streams of named events (wire-spec 8.6, 8.8)."""

from collections.abc import Mapping
from types import MappingProxyType

from mlx_ollama.dialects.answers import SSE

EVENT_STREAM: Mapping[str, str] = MappingProxyType({"cache-control": "no-cache", "content-type": SSE})


def named_event(name: str, data: bytes) -> bytes:
    """One event; `data` is JSON, which has no line ends."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
