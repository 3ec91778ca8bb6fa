"""A conversation with a model of a running server: what was said, and how answers are wanted."""

import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from shutil import get_terminal_size
from typing import Any

from mlx_ollama.console.answer import AnswerWriter, timings
from mlx_ollama.console.client import Client
from mlx_ollama.console.harmless import harmless
from mlx_ollama.console.progress import spinner
from mlx_ollama.errors import MlxOllamaError

Line = Mapping[str, Any]


@dataclass
class Manner:
    """How answers are wanted, and shown. `keep_alive` is a duration as Ollama writes it, `think` None is the model's
    own choice, `format` is `json` or a schema.
    """

    options: dict[str, Any] = field(default_factory=dict)
    system: str = ""
    format: Any = None
    think: bool | str | None = None
    keep_alive: str | None = None
    hide_thinking: bool = False
    verbose: bool = False
    wordwrap: bool = True

    def request(self, model: str) -> dict[str, Any]:
        """What every request for an answer says of it."""
        wanted = {"format": self.format, "think": self.think, "keep_alive": self.keep_alive}
        return {"model": model, "options": self.options} | {
            key: value for key, value in wanted.items() if value is not None
        }


class Conversation:
    """Turns with one model at a time."""

    def __init__(self, client: Client, manner: Manner) -> None:
        self.client = client
        self.manner = manner
        self.model = ""
        self.shown: Line = {}
        self.messages: list[Line] = []

    def load(self, model: str) -> None:
        """Turn to a model, from the beginning; what was said when it was saved is shown.

        Raises:
            NoServer, Refused: if it cannot be loaded; the conversation goes on as it was.
        """
        with spinner(sys.stderr):
            shown = self.client.post("/api/show", {"model": model})
            if "embedding" not in shown.get("capabilities", ()):
                request = {"model": model, "stream": False, "keep_alive": self.manner.keep_alive}
                self.client.post("/api/generate", request)
        self.model, self.shown, self.messages = model, shown, []
        for message in shown.get("messages", ()):
            said = harmless(message["content"], sys.stdout)
            sys.stdout.write({"user": ">>> {}\n", "assistant": "{}\n\n"}.get(message["role"], "").format(said))

    def ask(self, text: str) -> None:
        """Send a message and show the answer. Ctrl-C ends it; what came of it until then is remembered.

        Raises:
            NoServer, Refused: if there is no answer, or only a part; the message is then forgotten.
        """
        self.messages.append({"role": "user", "content": text})
        system = [{"role": "system", "content": self.manner.system}] if self.manner.system else []
        request = self.manner.request(self.model) | {"messages": system + self.messages}
        try:
            answer = write_answer(self.client, "/api/chat", request, self.manner)
        except MlxOllamaError:
            self.messages.pop()
            raise
        if answer.text:
            self.messages.append({"role": "assistant", "content": answer.text})
        else:
            self.messages.pop()

    def save(self, name: str) -> None:
        """Make a model of the conversation: the model, what was set, and what was said.

        Raises:
            NoServer, Refused: if it cannot be made.
        """
        said = [*self.shown.get("messages", ()), *self.messages]
        wanted = {"system": self.manner.system, "parameters": self.manner.options, "messages": said}
        request = {"model": name, "from": self.model} | {key: value for key, value in wanted.items() if value}
        self.client.post("/api/create", request | {"stream": False})

    def show(self) -> Line:
        """What the server tells of the model, with what was set here.

        Raises:
            NoServer, Refused: if it tells nothing.
        """
        return self.client.post(
            "/api/show", {"model": self.model, "system": self.manner.system, "options": self.manner.options}
        )


@dataclass(frozen=True)
class Answer:
    """What was read of an answer; not `complete` if Ctrl-C ended it."""

    text: str
    complete: bool


def write_answer(client: Client, path: str, request: Line, manner: Manner) -> Answer:
    """Show an answer as it comes, until it ends or Ctrl-C does.

    Raises:
        NoServer, Refused: for what went wrong, after what had come.
    """
    wraps = manner.wordwrap and sys.stdout.isatty()
    width = get_terminal_size().columns if wraps else None
    writer = AnswerWriter(sys.stdout, width=width, hide_thinking=manner.hide_thinking)
    last: Line = {}
    try:
        with closing(client.stream(path, request)) as lines, spinner(sys.stderr) as still:
            for last in lines:
                still()
                piece = last.get("message", last)
                writer.think(piece.get("thinking", ""))
                writer.say(piece.get("content", "") or piece.get("response", ""))
                writer.call(piece.get("tool_calls", []))
    except KeyboardInterrupt:
        return Answer(writer.text, complete=False)
    finally:
        writer.end()
    if manner.verbose:
        sys.stderr.write(timings(last))
    return Answer(writer.text, complete=True)
