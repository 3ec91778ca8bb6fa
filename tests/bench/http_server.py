"""A server as a contender, spoken to through its door."""

import json
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tests.bench.jobs import Answer, Chat, Job, Result
from tests.bench.stream import RECEIVED, Stream, pump, send

LOOK_SECONDS = 0.02
CONTEXT = 8192
PATIENCE_SECONDS = 60.0
SCHEMA = {
    "type": "array",
    "minItems": 1000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer"},
            "new": {"type": "boolean"},
        },
        "required": ["name", "age", "new"],
    },
}


class HttpServer:
    """A server that streams, in Ollama's dialect if it is ours, else in OpenAI's."""

    def __init__(self, name: str, port: int, model: str, *, ours: bool) -> None:
        self.name, self.port = name, port
        self._model, self._ours = model, ours

    def run(self, job: Job) -> Result:
        """As `Contender.run`.

        The client looks at its sockets every 20 ms instead of waking for each line: it shares two cores with
        what it measures, and only the server's work shall count.
        """
        path = "/api/generate" if self._ours else "/v1/completions"
        began = time.perf_counter()
        answers = {send(self.port, path, self._completion(job, prompt)): bytearray() for prompt in job.prompts}
        running = set(answers)
        while running:
            time.sleep(LOOK_SECONDS)
            running = {connection for connection in running if not _finished(connection, answers[connection])}
        seconds = time.perf_counter() - began
        for connection in answers:
            connection.close()
        return Result(sum(_count(bytes(answer)) for answer in answers.values()), seconds)

    def chat(self, chats: Sequence[Chat]) -> list[Answer]:
        """As `Contender.chat`."""
        began, streams = time.perf_counter(), list[Stream]()
        for chat in chats:
            while (left := chat.at - (time.perf_counter() - began)) > 0:
                pump(streams, left)
            streams.append(self.begin(chat))
        while not all(stream.done for stream in streams):
            pump(streams, PATIENCE_SECONDS)
        return [stream.answer for stream in streams]

    def begin(self, chat: Chat) -> Stream:
        """Ask now, whenever the chat was to arrive."""
        body: dict[str, Any] = {"model": self._model, "messages": list(chat.messages), "stream": True}
        if self._ours:
            options = {"num_predict": chat.tokens, "temperature": 0, "num_ctx": CONTEXT}
            return Stream(self.port, "/api/chat", body | {"options": options})
        return Stream(self.port, "/v1/chat/completions", body | {"max_tokens": chat.tokens, "temperature": 0})

    def _completion(self, job: Job, prompt: str) -> dict[str, Any]:
        if self._ours:
            options: dict[str, Any] = {"num_predict": job.tokens}
            options |= {} if job.default else {"temperature": 0}
            held = {"format": SCHEMA} if job.schema else {}
            return {"model": self._model, "prompt": prompt, "raw": True, "options": options, **held}
        sampling = {"temperature": 0.8, "top_k": 40, "top_p": 0.9} if job.default else {"temperature": 0}
        usage = {"stream": True, "stream_options": {"include_usage": True}}
        return {"model": self._model, "prompt": prompt, "max_tokens": job.tokens, **sampling, **usage}


def _finished(connection: socket.socket, answer: bytearray) -> bool:
    """Take what has arrived; true at the end of the answer."""
    with suppress(BlockingIOError):
        while piece := connection.recv(RECEIVED):
            answer += piece
        return True
    return answer.endswith(b"0\r\n\r\n") or b"[DONE]" in answer[-24:]


def _count(answer: bytes) -> int:
    """Tokens of an answer, as the server itself counts them at its end."""
    for line in reversed(answer.splitlines()):
        if b'"eval_count"' in line:
            return int(json.loads(line)["eval_count"])
        if b'"completion_tokens"' in line:
            return int(json.loads(line.removeprefix(b"data:"))["usage"]["completion_tokens"])
    raise AssertionError(f"no count in {answer[-300:]!r}")
