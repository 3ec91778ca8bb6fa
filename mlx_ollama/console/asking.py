"""What `run` does, once it is known what is wanted: one answer, one vector, or a conversation."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from mlx_ollama.console.client import NOT_FOUND, Client, Refused
from mlx_ollama.console.conversation import Conversation, Manner, write_answer
from mlx_ollama.console.lines import LineReader
from mlx_ollama.console.talk import talk
from mlx_ollama.errors import InvalidRequest

_INTERRUPTED = 130


@dataclass(frozen=True)
class Question:
    """What `run` was told. `embedding` are members for models that make vectors of texts."""

    model: str
    words: Sequence[str]
    manner: Manner
    embedding: Mapping[str, Any] = field(default_factory=dict)


def ask(client: Client, question: Question, history: Path | None) -> int:
    """Answer what comes in words or through a pipe, or talk where there is a person; the exit status.

    Raises:
        NoServer, Refused: if there is no answer.
        InvalidRequest: for a model that is not there, or a text that is missing.
    """
    has_person = sys.stdin.isatty()
    piped = "" if has_person else sys.stdin.read()
    prompt = " ".join([*([piped] if piped else []), *question.words])
    if "embedding" in _shown(client, question.model).get("capabilities", ()):
        return _embed(client, question, prompt)
    if has_person and sys.stdout.isatty() and not question.words:
        conversation = Conversation(client, question.manner)
        conversation.load(question.model)
        talk(conversation, LineReader(history))
        return 0
    request = question.manner.request(question.model) | {"prompt": prompt}
    return 0 if write_answer(client, "/api/generate", request, question.manner).complete else _INTERRUPTED


def _shown(client: Client, model: str) -> Mapping[str, Any]:
    try:
        return client.post("/api/show", {"model": model})
    except Refused as error:
        if error.status != NOT_FOUND:
            raise
        raise InvalidRequest(
            f"{error}; `mlx-ollama list` shows what there is, `mlx-ollama pull`, `import` and `create` bring more"
        ) from error


def _embed(client: Client, question: Question, text: str) -> int:
    if not text:
        raise InvalidRequest(
            f"{question.model} makes vectors of texts; give it one: mlx-ollama run {question.model} 'some words'"
        )
    request = {"model": question.model, "input": text, **question.embedding}
    vectors = client.post("/api/embed", request)["embeddings"]
    sys.stdout.write(f"{orjson.dumps(vectors[0]).decode()}\n")
    return 0
