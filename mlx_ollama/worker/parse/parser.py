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


@dataclass(frozen=True)
class Gate:
    """Where the answer proper begins, for a grammar that must not hold back the thinking.

    That is behind the first `text` in the raw text, white space aside, and behind the `bridge` that has to follow it.
    `opening` is what begins the thinking; it is empty where the prompt has begun it.
    """

    text: str
    opening: str = ""
    bridge: str = ""


class Parser(Protocol):
    """Takes raw text as it grows. What may be the start of a tag is withheld, and nothing is lost.

    `gate` is None where the answer begins at once.
    """

    @property
    def gate(self) -> Gate | None: ...

    def add(self, text: str) -> Parsed | None:
        """What is certain with this text; None if there is nothing to send."""

    def flush(self) -> Parsed | None:
        """The rest, when no text follows."""


class PlainText:
    """Everything is the answer."""

    gate = None

    def add(self, text: str) -> Parsed | None:
        return Parsed(text) if text else None

    def flush(self) -> Parsed | None:
        return None
