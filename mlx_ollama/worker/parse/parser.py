"""What every parser is."""

from dataclasses import dataclass
from typing import Protocol

from mlx_ollama.types import ToolCall


@dataclass(frozen=True)
class Parsed:
    """A piece of raw text, understood. The parts come in this order: thinking, text, calls."""

    text: str = ""
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()


class Parser(Protocol):
    """Takes raw text as it grows. What may be the start of a tag is withheld, and nothing is lost.

    `gate` is the raw text after which the answer proper begins, `opening` what the model has to write first to think;
    both are empty where the answer begins at once.
    """

    opening: str
    gate: str

    def add(self, text: str) -> Parsed | None:
        """What is certain with this text; None if there is nothing to send."""

    def flush(self) -> Parsed | None:
        """The rest, when no text follows."""


class PlainText:
    """Everything is the answer."""

    opening = ""
    gate = ""

    def add(self, text: str) -> Parsed | None:
        return Parsed(text) if text else None

    def flush(self) -> Parsed | None:
        return None
