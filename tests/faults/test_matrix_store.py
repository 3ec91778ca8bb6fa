"""A full disk, and files that are not what they should be: told, and nothing that was stored is lost."""

import hashlib
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlx_ollama.cli import main
from tests.faults.standing import good_text, is_healthy, standing, stored
from tests.support.registry import LocalRegistry
from tests.support.server import Server, serving, wait_until
from tests.worker.gguf_files import TinyLlama, write_gguf

pytestmark = [
    pytest.mark.xdist_group("matrix-store"),
    pytest.mark.skipif(
        sys.platform != "linux", reason="files of another process cannot be limited, and no disk is full"
    ),
]

ROOM_BYTES = 16 * 1024


@dataclass(frozen=True)
class Bench:
    server: Server
    good: str
    gguf: bytes


@pytest.fixture(scope="module")
def bench(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("store")
    _import(folder / "home", "tiny", tiny_directory)
    gguf = write_gguf(folder / "tiny.gguf", TinyLlama(layers=1)).read_bytes()
    with serving(folder / "home", env={"MLX_API_LOG_FILE": "/dev/full"}) as server:
        yield Bench(server, good_text(server), gguf)


def _import(home: Path, name: str, directory: Path) -> None:
    assert main(("import", name, str(directory), "--home", str(home), "--parameter", "temperature=0")) == 0


@contextmanager
def _full_disk(server: Server) -> Iterator[None]:
    """A limit on the size of files fails a write as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (ROOM_BYTES, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)


def _upload(server: Server, content: bytes) -> httpx.Response:
    return server.client.post(f"/api/blobs/{_digest(content)}", content=content)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _partials(server: Server) -> list[Path]:
    return [*(server.home / "models").rglob(".partial*"), *(server.home / "converted").glob("*.partial")]


@pytest.mark.fault("a full disk", "create", "told 500")
def test_no_room_to_create(bench: Bench) -> None:
    server = bench.server
    with standing(server, bench.good):
        with _full_disk(server):
            refused = _upload(server, os.urandom(1 << 20))
            assert (refused.status_code, "cannot be written" in refused.json()["error"]) == (500, True)
            large = {"model": "big", "from": "tiny", "system": "x" * 2 * ROOM_BYTES, "stream": False}
            refused = server.post("/api/create", large)
            assert (refused.status_code, "cannot write big:latest" in refused.json()["error"]) == (500, True)
        assert not _partials(server)
        assert server.post("/api/create", large).json() == {"status": "success"}


@pytest.mark.fault("a full disk", "pull", "told in the last line")
def test_no_room_to_pull(bench: Bench) -> None:
    server = bench.server
    with LocalRegistry(bench.gguf).serving() as registry, standing(server, bench.good):
        call = {"model": f"http://{registry.host}/ns/m", "insecure": True}
        with _full_disk(server):
            assert "cannot be stored" in server.lines("/api/pull", call)[-1]["error"]
        assert server.lines("/api/pull", call)[-1] == {"status": "success"}


@pytest.mark.fault("a full disk", "log", "nothing: standard error has the lines, and says so")
def test_no_room_for_the_log(bench: Bench) -> None:
    with standing(bench.server, bench.good):
        assert bench.server.client.get("/api/version").status_code == 200
    said = bench.server.log.read_text()
    assert said.count("the log cannot be written to /dev/full") == 1
    assert "GET /api/version 200" in said


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


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a safetensors file that is cut off": _cut("model.safetensors"),
    "a safetensors file with another header": _write("model.safetensors", b"\xff" * 64),
    "an empty tokenizer": _replace("tokenizer.json", ""),
    "a tokenizer of nothing": _replace("tokenizer.json", "{}"),
}


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(damage, marks=pytest.mark.fault(name, "loading", "told 500"), id=name)
        for name, damage in DAMAGES.items()
    ],
)
def test_a_model_that_is_damaged(
    bench: Bench, tiny_directory: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    server, model = bench.server, tmp_path / "model"
    shutil.copytree(tiny_directory, model)
    _import(server.home, tmp_path.name, model)
    damage(model)
    with standing(server, bench.good):
        refused = server.post("/api/generate", {"model": tmp_path.name, "prompt": "x", "stream": False})
        assert refused.status_code == 500
        assert refused.json()["error"]
    assert server.client.request("DELETE", "/api/delete", json={"model": tmp_path.name}).status_code == 200


@pytest.mark.parametrize(
    "keep",
    [
        pytest.param(
            keep, marks=pytest.mark.fault(f"a GGUF file cut off in its {where}", "create", "told in the last line")
        )
        for keep, where in ((0.0001, "magic"), (0.02, "header"), (0.9, "weights"))
    ],
)
def test_a_gguf_file_that_is_cut_off(bench: Bench, keep: float) -> None:
    server, content = bench.server, bench.gguf[: max(3, int(len(bench.gguf) * keep))]
    with standing(server, bench.good):
        assert _upload(server, content).status_code in (200, 201)
        lines = server.lines("/api/create", {"model": "cut", "files": {"cut.gguf": _digest(content)}})
        assert lines[-1]["error"]
        assert not _partials(server)
        assert server.post("/api/show", {"model": "cut"}).status_code == 404


@pytest.mark.parametrize(
    "job",
    [
        pytest.param(job, marks=pytest.mark.fault("SIGTERM", job, "exit 0, nothing half made"))
        for job in ("create", "pull")
    ],
)
def test_sigterm_in_a_job(tiny_directory: Path, tmp_path: Path, job: str) -> None:
    _import(tmp_path, "tiny", tiny_directory)
    gguf = write_gguf(tmp_path / "t.gguf", TinyLlama(layers=8, hidden=512, ffn=1024, heads=8, kv_heads=8, head_dim=64))
    content, before = gguf.read_bytes(), stored(tmp_path)
    with LocalRegistry(content).serving() as registry, serving(tmp_path, "--drain", "0.1") as server:
        body: dict[str, Any] = {"model": f"http://{registry.host}/ns/m", "insecure": True}
        if job == "create":
            assert _upload(server, content).status_code == 201
            body = {"model": "own", "files": {"t.gguf": _digest(content)}}
        with server.client.stream("POST", f"/api/{job}", json=body) as answer:
            next(answer.iter_lines())
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(60) == 0
    with serving(tmp_path) as server:
        assert is_healthy(server.url)
        wait_until(lambda: not [path for path in _partials(server) if path.is_dir()], "a tidy folder")
        assert before.items() <= stored(tmp_path).items()
        assert good_text(server)
        for model in server.client.get("/api/tags").json()["models"]:
            assert server.post("/api/show", {"model": model["name"]}).status_code == 200
