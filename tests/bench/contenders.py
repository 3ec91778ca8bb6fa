"""Who is measured, each in a process of its own, loaded and with the same BLAS."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from mlx_ollama.environment import of_workers
from tests.bench.http_server import HttpServer
from tests.bench.jobs import Answer, Chat, Contender, Job, Result
from tests.bench.subjects import Subject
from tests.support.server import clean_environment, serving, wait_until

Kind = TypeVar("Kind")
OPENBLAS = "libopenblas.so.0"
ROOM = {"MLX_API_MAX_CONCURRENT": "32"}
"""As many answers at once as are asked for here, and as the other two would take."""

NAMES = ("mlx-ollama", "mlx_lm.server", "bare loop")


class Bare:
    name = NAMES[2]

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, job: Job) -> Result:
        sampler = {"temp": 0.8, "top_k": 40, "top_p": 0.9} if job.default else {"temp": 0.0}
        return Result(**ask(self._process, {"prompts": list(job.prompts), "tokens": job.tokens, "sampler": sampler}))

    def chat(self, chats: Sequence[Chat]) -> list[Answer]:
        return [Answer(**answer) for answer in ask(self._process, {"chats": [asdict(chat) for chat in chats]})]


@contextmanager
def contenders(subject: Subject) -> Iterator[list[Contender]]:
    """All three, loaded and warm, in the order of `NAMES`."""
    with (
        ours(subject) as server,
        mlx_lm_server("--model", str(subject.directory)) as port,
        helper("bare", str(subject.directory)) as process,
    ):
        rivals: list[Contender] = [
            server,
            HttpServer(NAMES[1], port, str(subject.directory), ours=False),
            Bare(process),
        ]
        for rival in rivals:
            rival.run(Job(subject.prompts("warm", 2), 8))
        yield rivals


@contextmanager
def ours(subject: Subject) -> Iterator[HttpServer]:
    with serving(subject.home, "--keep-alive", "-1", env=ROOM) as server:
        yield HttpServer(NAMES[0], server.port, subject.name, ours=True)


@contextmanager
def mlx_lm_server(*arguments: str) -> Iterator[int]:
    """The port of `mlx_lm.server`."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "mlx_lm", "server", *arguments, "--port", str(port)]
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


@contextmanager
def helper(module: str, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator["subprocess.Popen[str]"]:
    """A module of this package in a process of its own that reads and writes JSON lines, as soon as it is ready."""
    command = [sys.executable, "-m", f"tests.bench.{module}", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stdout
            assert process.stdout.readline().strip() == "ready"
            yield process
        finally:
            process.kill()


def ask(process: "subprocess.Popen[str]", order: Any) -> Any:
    """What a helper answers."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


@contextmanager
def inside(directory: Path) -> Iterator[Callable[[Sequence[str], int], float]]:
    """Asks an engine for the part of its time that is not model and sampler, for prompts and tokens."""
    with helper("inside", str(directory), env=of_workers()) as process:
        yield lambda prompts, tokens: float(ask(process, {"prompts": list(prompts), "tokens": tokens}))


def turned(rivals: Sequence[Kind], round_: int) -> list[Kind]:
    """In an order that changes from round to round."""
    turn = round_ % len(rivals)
    return [*rivals[turn:], *rivals[:turn]]


def _has_openblas() -> bool:
    finder = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=False)
    return OPENBLAS in finder.stdout and os.name == "posix"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
