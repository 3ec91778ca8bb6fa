"""What `think` means for a request, and the tags by which templates tell that a model thinks (wire-spec 10.1)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mlx_ollama.types import Message

PAIRS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>", "<channel|>"),
    ("<|think:start|>", "<|think:end|>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<seed:think>", "</seed:think>"),
    ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
)
"""What families put around their thinking."""

_LEVEL_OF_TRUE = "medium"
_THOUGHTS = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)


@dataclass(frozen=True)
class Thinking:
    """`think` as templates see it; `is_set` is whether they can tell that from nothing said.

    `is_named`: the caller chose the level.
    """

    think: bool = False
    level: str = ""
    is_set: bool = False
    is_named: bool = False

    @classmethod
    def settle(cls, wanted: bool | str | None, *, can_think: bool, harmony: bool) -> "Thinking":
        """What a request's `think` comes to: a model that can think does, unless it is told not to."""
        if not can_think:
            return cls(is_set=wanted is not None)
        if wanted is False:
            return cls(is_set=True)
        if not isinstance(wanted, str):
            return cls(think=True, level=_LEVEL_OF_TRUE, is_set=True)
        return cls(think=True, level="high" if harmony and wanted == "max" else wanted, is_set=True, is_named=True)


def tags_in(template: str) -> tuple[str, str] | None:
    """The pair of which a template has both."""
    return next((pair for pair in PAIRS if all(tag in template for tag in pair)), None)


def speaks_harmony(template: str) -> bool:
    """Whether a template is of the gpt-oss family: messages on channels instead of tags (wire-spec 10.5)."""
    return all(marker in template for marker in ("<|start|>", "<|channel|>", "<|message|>"))


def without_thoughts(messages: Sequence[Message]) -> list[Message]:
    """The conversation without what the model thought before the last question (wire-spec 4.3)."""
    last = max((at for at, message in enumerate(messages) if message.role == "user"), default=0)
    return [_without_thought(message) if at < last else message for at, message in enumerate(messages)]


def _without_thought(message: Message) -> Message:
    if message.role != "assistant":
        return message
    thought = _THOUGHTS.match(message.content)
    return replace(message, content=message.content[thought.end() :]) if thought else message
