"""The items of an answer of `/v1/responses`, whole and while they grow (wire-spec 8.6)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mlx_ollama import gojson
from mlx_ollama.types import ToolCall

Told: TypeAlias = tuple[str, dict[str, Any]]
"""An event without its number: its type, and its other members."""


def reasoning_item(id_: str, thinking: str) -> dict[str, Any]:
    """What the model told itself; nothing is encrypted, and it may be sent back as it is."""
    summary = [{"type": "summary_text", "text": thinking}]
    return {"id": id_, "type": "reasoning", "summary": summary, "encrypted_content": thinking}


def message_item(id_: str, text: str) -> dict[str, Any]:
    return {"id": id_, "type": "message", "status": "completed", "role": "assistant", "content": [_text_part(text)]}


def call_item(id_: str, call: ToolCall) -> dict[str, Any]:
    return {
        "id": id_,
        "type": "function_call",
        "status": "completed",
        "call_id": call.id,
        "name": call.name,
        "arguments": gojson.dumps(dict(call.arguments)).decode(),
    }


def call_events(id_: str, index: int, call: ToolCall) -> Iterator[Told]:
    """A call comes in one piece."""
    item = call_item(id_, call)
    place = {"item_id": id_, "output_index": index}
    begun = {**item, "arguments": "", "status": "in_progress"}
    yield "response.output_item.added", {"output_index": index, "item": begun}
    yield "response.function_call_arguments.delta", {**place, "delta": item["arguments"]}
    yield "response.function_call_arguments.done", {**place, "arguments": item["arguments"]}
    yield "response.output_item.done", {"output_index": index, "item": item}


@dataclass
class GrowingReasoning:
    """A reasoning item in a stream."""

    id: str
    index: int
    _pieces: list[str] = field(default_factory=list)

    def opening(self) -> Iterator[Told]:
        item = {"id": self.id, "type": "reasoning", "summary": []}
        yield "response.output_item.added", {"output_index": self.index, "item": item}

    def piece(self, text: str) -> Told:
        self._pieces.append(text)
        return "response.reasoning_summary_text.delta", {**self._place(), "delta": text}

    def closing(self) -> Iterator[Told]:
        yield "response.reasoning_summary_text.done", {**self._place(), "text": "".join(self._pieces)}
        yield "response.output_item.done", {"output_index": self.index, "item": self.item()}

    def item(self) -> dict[str, Any]:
        return reasoning_item(self.id, "".join(self._pieces))

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index, "summary_index": 0}


@dataclass
class GrowingMessage:
    """A message in a stream."""

    id: str
    index: int
    _pieces: list[str] = field(default_factory=list)

    def opening(self) -> Iterator[Told]:
        begun = {**message_item(self.id, ""), "content": [], "status": "in_progress"}
        yield "response.output_item.added", {"output_index": self.index, "item": begun}
        yield "response.content_part.added", {**self._place(), "part": _text_part("")}

    def piece(self, text: str) -> Told:
        self._pieces.append(text)
        return "response.output_text.delta", {**self._place(), "logprobs": [], "delta": text}

    def closing(self) -> Iterator[Told]:
        text = "".join(self._pieces)
        yield "response.output_text.done", {**self._place(), "logprobs": [], "text": text}
        yield "response.content_part.done", {**self._place(), "part": _text_part(text)}
        yield "response.output_item.done", {"output_index": self.index, "item": self.item()}

    def item(self) -> dict[str, Any]:
        return message_item(self.id, "".join(self._pieces))

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index, "content_index": 0}


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
