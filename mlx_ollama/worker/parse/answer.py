"""The parser of most families: thinking in front, then text and calls."""

from mlx_ollama.types import ToolCall
from mlx_ollama.worker.parse.calls import Calls
from mlx_ollama.worker.parse.parser import Gate, Parsed
from mlx_ollama.worker.parse.thoughts import Thoughts


class Answer:
    """Puts the parts of a parser together; either may be None.

    `tells`: text that is withheld is told of, as the reference's parser for Go templates does (wire-spec 10.1).
    """

    def __init__(
        self,
        thoughts: Thoughts | None,
        calls: Calls | None,
        *,
        tells: bool = False,
        gate: Gate | None = None,
    ) -> None:
        self._thoughts = thoughts
        self._calls = calls
        self._nothing = Parsed() if tells else None
        self.gate = gate

    def add(self, text: str) -> Parsed | None:
        if not text:
            return None
        thinking, said = self._thoughts.add(text) if self._thoughts else ("", text)
        answer, calls = self._calls.add(said) if self._calls else (said, ())
        return _parsed(answer, thinking, calls) or self._nothing

    def flush(self) -> Parsed | None:
        thinking, said = self._thoughts.flush() if self._thoughts else ("", "")
        answer, calls = self._calls.add(said) if self._calls else (said, ())
        rest, late = self._calls.flush() if self._calls else ("", ())
        return _parsed(answer + rest, thinking, calls + late)


def _parsed(text: str, thinking: str, calls: tuple[ToolCall, ...]) -> Parsed | None:
    return Parsed(text, thinking, calls) if text or thinking or calls else None
