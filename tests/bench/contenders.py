"""Who is measured: each answers `n` prompts at once and says how many tokens that were in how many seconds."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.support.server import clean_environment, serving, wait_until

OPENBLAS = "libopenblas.so.0"
LOOK_SECONDS = 0.01
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
ROOM = {"MLX_API_MAX_CONCURRENT": "32"}
"""As many answers at once as are asked for here, and as the other two would take."""

NAMES = ("mlx-ollama", "mlx_lm.server", "bare loop")


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


class Contender(Protocol):
    name: str

    def run(self, job: Job) -> Result: ...


class Bare:
    name = NAMES[2]

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, job: Job) -> Result:
        sampler = {"temp": 0.8, "top_k": 40, "top_p": 0.9} if job.default else {"temp": 0.0}
        order = {"prompts": list(job.prompts), "tokens": job.tokens, "sampler": sampler}
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Result(**json.loads(self._process.stdout.readline()))


class Http:
    """A server that streams. The client looks at its sockets every few milliseconds instead of waking for each line: it
    shares two cores with what it measures, and only the server's work shall count."""

    def __init__(self, name: str, port: int, path: str, model: str) -> None:
        self.name = name
        self._port, self._path, self._model = port, path, model

    def run(self, job: Job) -> Result:
        began = time.perf_counter()
        answers = {self._ask(self._body(job, prompt)): bytearray() for prompt in job.prompts}
        running = set(answers)
        while running:
            time.sleep(LOOK_SECONDS)
            running = {connection for connection in running if not _finished(connection, answers[connection])}
        seconds = time.perf_counter() - began
        for connection in answers:
            connection.close()
        return Result(sum(_count(bytes(answer)) for answer in answers.values()), seconds)

    def _body(self, job: Job, prompt: str) -> dict[str, Any]:
        if self._path == "/api/generate":
            options: dict[str, Any] = {"num_predict": job.tokens}
            options |= {} if job.default else {"temperature": 0}
            held = {"format": SCHEMA} if job.schema else {}
            return {"model": self._model, "prompt": prompt, "raw": True, "options": options, **held}
        sampling = {"temperature": 0.8, "top_k": 40, "top_p": 0.9} if job.default else {"temperature": 0}
        usage = {"stream": True, "stream_options": {"include_usage": True}}
        return {"model": self._model, "prompt": prompt, "max_tokens": job.tokens, **sampling, **usage}

    def _ask(self, body: dict[str, Any]) -> socket.socket:
        content = json.dumps(body).encode()
        head = f"POST {self._path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(content)}\r\n\r\n"
        connection = socket.create_connection(("127.0.0.1", self._port))
        connection.sendall(head.encode() + content)
        connection.setblocking(False)
        return connection


@contextmanager
def contenders(directory: Path, home: Path, model: str) -> Iterator[list[Contender]]:
    """All three, loaded and warm."""
    with (
        serving(home, "--keep-alive", "-1", env=ROOM) as ours,
        _mlx_lm_server(directory) as port,
        _bare(directory) as process,
    ):
        yield [
            Http(NAMES[0], ours.port, "/api/generate", model),
            Http(NAMES[1], port, "/v1/completions", str(directory)),
            Bare(process),
        ]


@contextmanager
def _bare(directory: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "tests.bench.bare", str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline().strip() == "ready"
        yield process
        process.kill()


@contextmanager
def inside(directory: Path) -> Iterator[Callable[[Sequence[str], int], float]]:
    """Asks an engine for the part of its time that is not model and sampler, for prompts and tokens."""
    command = [sys.executable, "-m", "tests.bench.inside", str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        read, write = process.stdout, process.stdin
        assert read
        assert write
        assert read.readline().strip() == "ready"

        def share(prompts: Sequence[str], tokens: int) -> float:
            write.write(json.dumps({"prompts": list(prompts), "tokens": tokens}) + "\n")
            write.flush()
            return float(json.loads(read.readline()))

        yield share
        write.close()


@contextmanager
def _mlx_lm_server(directory: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(directory), "--port", str(port)]
    environment = {**clean_environment(), "HF_HUB_OFFLINE": "1"}
    if _has_openblas():
        environment["LD_PRELOAD"] = OPENBLAS
    with subprocess.Popen(
        [*command, "--log-level", "ERROR"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait_until(lambda: _listens(port), "mlx_lm.server", seconds=60)
            yield port
        finally:
            process.kill()


def _finished(connection: socket.socket, answer: bytearray) -> bool:
    """Take what has arrived; true at the end of the answer."""
    with suppress(BlockingIOError):
        while piece := connection.recv(1 << 18):
            answer += piece
        return True
    return answer.endswith(b"0\r\n\r\n") or b"[DONE]" in answer[-24:]


def _has_openblas() -> bool:
    finder = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=False)
    return OPENBLAS in finder.stdout and os.name == "posix"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _count(answer: bytes) -> int:
    """Tokens of an answer, as the server itself counts them at its end."""
    for line in reversed(answer.splitlines()):
        if b'"eval_count"' in line:
            return int(json.loads(line)["eval_count"])
        if b'"completion_tokens"' in line:
            return int(json.loads(line.removeprefix(b"data:"))["usage"]["completion_tokens"])
    raise AssertionError(f"no count in {answer[-300:]!r}")
