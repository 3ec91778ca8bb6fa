"""What contenders are asked for, and what comes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Job:
    """Prompts that arrive together; `tokens` is the most that each answer may have.

    `default` is Ollama's sampling. `schema` holds the answers to one that they cannot satisfy within their tokens; only
    our server knows it.
    """

    prompts: Sequence[str]
    tokens: int
    default: bool = False
    schema: bool = False


@dataclass(frozen=True)
class Result:
    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Chat:
    """A conversation that is to be answered greedily with `tokens` tokens; it arrives `at` seconds after the first."""

    messages: Messages
    tokens: int
    at: float = 0.0


@dataclass(frozen=True)
class Answer:
    """`first` is the seconds from a chat's arrival to the first text of its answer."""

    first: float
    text: str


class Contender(Protocol):
    name: str

    def run(self, job: Job) -> Result:
        """Answer prompts that arrive together; how fast that went."""
        ...

    def chat(self, chats: Sequence[Chat]) -> list[Answer]:
        """Answer chats that stand in the order in which they arrive."""
        ...
