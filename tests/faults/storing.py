"""A full disk, and files that are not what they should be, as scenes."""

import hashlib
import os
import resource
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from mlx_ollama.cli import main
from tests.faults.scenes import NOTHING, UnderWay, in_words, post, rest
from tests.faults.standing import Ask
from tests.support.registry import LocalRegistry
from tests.support.server import Server, wait_until

ROOM_BYTES = 16 * 1024


def import_model(home: Path, name: str, directory: Path) -> None:
    assert main(("import", name, str(directory), "--home", str(home), "--parameter", "temperature=0")) == 0


@contextmanager
def full_disk(server: Server) -> Iterator[None]:
    """A limit on the size of files fails a write as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (ROOM_BYTES, limits[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def upload(server: Server, content: bytes) -> httpx.Response:
    return server.client.post(f"/api/blobs/{digest_of(content)}", content=content)


def partials(home: Path) -> list[Path]:
    return [*(home / "models").rglob(".partial*"), *(home / "converted").glob(".partial-*")]


def _cut(file: str) -> Callable[[Path], None]:
    return lambda model: os.truncate(model / file, (model / file).stat().st_size // 2)


def _write(file: str, content: bytes) -> Callable[[Path], None]:
    def write(model: Path) -> None:
        with (model / file).open("r+b") as opened:
            opened.write(content)

    return write


def _replace(file: str, content: str) -> Callable[[Path], None]:
    def replace(model: Path) -> None:
        (model / file).write_text(content)

    return replace


DAMAGES: Mapping[str, Callable[[Path], None]] = {
    "a safetensors file that is cut off": _cut("model.safetensors"),
    "a safetensors file with another header": _write("model.safetensors", b"\xff" * 64),
    "an empty tokenizer": _replace("tokenizer.json", ""),
    "a tokenizer of nothing": _replace("tokenizer.json", "{}"),
}
CUTS: Mapping[str, float] = {"magic": 0.0001, "header": 0.02, "weights": 0.9}
"""Where a GGUF file is cut off, and how much of it is left then."""


def cut_off(gguf: bytes, where: str) -> bytes:
    return gguf[: max(3, int(len(gguf) * CUTS[where]))]


def damaged_name(damage: str) -> str:
    return damage.replace(" ", "-")


def damaged(home: Path, weights: Path, folder: Path, damage: str) -> str:
    """A model that is stored, and then damaged; its name."""
    model = folder / damaged_name(damage)
    shutil.copytree(weights, model)
    import_model(home, model.name, model)
    DAMAGES[damage](model)
    return model.name


@dataclass(frozen=True)
class Jobs:
    """Jobs that are under way on a server. `gguf` is what they are about."""

    server: Server
    gguf: bytes

    @contextmanager
    def stream(self, path: str, body: Any) -> Iterator[UnderWay]:
        """A job that tells in lines, of which the first has come."""
        with ThreadPoolExecutor(1) as pool:
            ask = Ask(self.server.url, body, pool, path)
            wait_until(lambda: ask.lines, "its first words")
            yield UnderWay(ask.outcome)

    @contextmanager
    def uploading(self) -> Iterator[UnderWay]:
        content = os.urandom(1 << 20)
        with post(self.server, f"/api/blobs/{digest_of(content)}", len(content)) as connection:
            with suppress(ConnectionError):
                connection.sendall(content[: 1 << 19])
            yield UnderWay(lambda: in_words(rest(connection)))

    @contextmanager
    def creating(self, content: bytes) -> Iterator[UnderWay]:
        assert upload(self.server, content).status_code in (200, 201)
        name = f"of-{len(content)}-bytes"
        with self.stream("/api/create", {"model": name, "files": {"a.gguf": digest_of(content)}}) as under_way:
            yield under_way

    @contextmanager
    def pulling(self) -> Iterator[UnderWay]:
        with LocalRegistry(self.gguf).serving() as registry:
            body = {"model": f"http://{registry.host}/ns/m", "insecure": True}
            with self.stream("/api/pull", body) as under_way:
                yield under_way

    @contextmanager
    def loading(self, model: str) -> Iterator[UnderWay]:
        with ThreadPoolExecutor(1) as pool:
            ask = Ask(self.server.url, {"model": model, "prompt": "x"}, pool)
            wait_until(lambda: ask.lines or self.server.client.get("/health").json()["active_requests"], "the load")
            yield UnderWay(ask.outcome)

    @contextmanager
    def logging(self) -> Iterator[UnderWay]:
        yield UnderWay(lambda: NOTHING, lambda: self.server.client.get("/api/version").raise_for_status().close())
