"""Feeds parsers in pieces."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mlx_ollama.worker.parse.parser import Parsed, Parser

GET_W: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_w",
        "description": "d",
        "parameters": {
            "type": "object",
            "required": ["city"],
            "properties": {
                "city": {"type": "string", "description": "c"},
                "n": {"type": ["integer", "null"]},
                "days": {"type": "array", "items": {"type": "string"}},
                "where": {"type": "object"},
                "exact": {"type": "boolean"},
                "zip": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
        },
    },
}
NOW: dict[str, Any] = {"type": "function", "function": {"name": "what-time", "parameters": {"type": "object"}}}
TOOLS = (GET_W, NOW)


def fed(parser: Parser, pieces: Iterable[str]) -> Parsed:
    """What a parser makes of an answer in all."""
    parts = [parser.add(piece) for piece in pieces] + [parser.flush()]
    whole = Parsed()
    for part in parts:
        whole += part or Parsed()
    return whole


def cuts(text: str) -> Iterator[Sequence[str]]:
    """The text whole, in two pieces at every position, and character by character."""
    yield [text]
    for at in range(1, len(text)):
        yield [text[:at], text[at:]]
    yield list(text)


def understood(make: Callable[[], Parser], text: str) -> Parsed:
    """What any cut of the text comes to."""
    whole = fed(make(), [text])
    for pieces in cuts(text):
        assert plain(fed(make(), pieces)) == plain(whole), pieces
    return whole


def plain(parsed: Parsed) -> tuple[str, str, list[tuple[str, str]]]:
    """With the arguments as JSON text, so that the order of keys counts, and types do."""
    calls = [(call.name, json.dumps(dict(call.arguments), ensure_ascii=False)) for call in parsed.calls]
    return parsed.text, parsed.thinking, calls
