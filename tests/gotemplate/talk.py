"""Conversations to render."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_ollama.types import Message, ToolCall

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Conversation:
    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]]
    thinking: Mapping[str, Any]
    prompt: str
    suffix: str


def conversations() -> dict[str, Conversation]:
    """The conversations that the recorder used, by name."""
    raw = json.loads((HERE / "conversations.json").read_text())
    return {entry["name"]: _conversation(entry) for entry in raw}


def talk(*turns: tuple[str, str]) -> list[Message]:
    """Messages from pairs of role and content."""
    return [Message(role=role, content=content) for role, content in turns]


def _conversation(entry: Mapping[str, Any]) -> Conversation:
    return Conversation(
        messages=[_message(message) for message in entry.get("messages", ())],
        tools=entry.get("tools", ()),
        thinking={key: entry[key] for key in ("think", "think_level", "is_think_set") if key in entry},
        prompt=entry.get("prompt", ""),
        suffix=entry.get("suffix", ""),
    )


def _message(entry: Mapping[str, Any]) -> Message:
    calls = tuple(
        ToolCall(
            name=call["function"]["name"],
            arguments=call["function"]["arguments"],
            id=call.get("id", ""),
            index=call["function"].get("index", 0),
        )
        for call in entry.get("tool_calls", ())
    )
    return Message(**{**entry, "tool_calls": calls})
