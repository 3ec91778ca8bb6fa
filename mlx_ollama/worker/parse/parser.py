"""What every parser is."""

from dataclasses import dataclass
from typing import Protocol

from mlx_ollama.types import ToolCall


@dataclass(frozen=True)
class Parsed:
    """A piece of raw text, understood. The parts come in this order: thinking, text, calls.

    Empty, it says that text came and is withheld: `/api/generate` sends a line for that (wire-spec 10.1).
    """

    text: str = ""
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()

    def __add__(self, other: "Parsed") -> "Parsed":
        """Both pieces as one, in this order."""
        return Parsed(self.text + other.text, self.thinking + other.thinking, self.calls + other.calls)


class Parser(Protocol):
    """Takes raw text as it grows. What may be the start of a tag is withheld, and nothing is lost.

    A grammar must not hold back the thinking, so a parser tells where that ends: the answer proper begins behind the
    first `gate` in the raw text, white space aside. `opening` is what the text has to begin with for there to be a
    gate at all; it is empty where the prompt has opened the thinking. Both are empty where the answer begins at once.
    """

    @property
    def gate(self) -> str: ...
    @property
    def opening(self) -> str: ...

    def add(self, text: str) -> Parsed | None:
        """What is certain with this text; None if there is nothing to send."""

    def flush(self) -> Parsed | None:
        """The rest, when no text follows."""


class PlainText:
    """Everything is the answer."""

    gate = ""
    opening = ""

    def add(self, text: str) -> Parsed | None:
        return Parsed(text) if text else None

    def flush(self) -> Parsed | None:
        return None
