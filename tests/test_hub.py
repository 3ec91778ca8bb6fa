"""Pulling from the Hugging Face hub, and what may break on the way."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub import COMMIT, LocalHub
from tests.support.server import Server, serving
from tests.worker.gguf_files import TinyLlama, write_gguf

REPOSITORY = "acme/Tiny-4bit"
GGUF_REPOSITORY = "acme/Tiny-GGUF"
PROMPT = {"prompt": "The", "raw": True, "stream": False, "options": {"num_predict": 2}}


@pytest.fixture(scope="module")
def mlx_files(tiny_directory: Path) -> dict[str, bytes]:
    files = {path.name: path.read_bytes() for path in tiny_directory.iterdir() if path.is_file()}
    return files | {"README.md": b"# Tiny", "setup.py": b"raise SystemExit", "original/model.safetensors": b"other"}


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", TinyLlama(layers=1)).read_bytes()


@pytest.fixture
def hub(mlx_files: dict[str, bytes], gguf: bytes) -> Iterator[LocalHub]:
    ggufs = {"tiny-Q8_0.gguf": b"not this", "tiny-Q4_K_M.gguf": gguf, "mmproj-F16.gguf": b"nor this"}
    with LocalHub({REPOSITORY: mlx_files, GGUF_REPOSITORY: ggufs}).serving() as running:
        yield running


@pytest.fixture
def server(tmp_path: Path, hub: LocalHub) -> Iterator[Server]:
    with serving(tmp_path / "home", env=hub.environment(tmp_path / "hf")) as running:
        yield running


def snapshot(tmp_path: Path, repository: str = REPOSITORY) -> Path:
    return tmp_path / "hf" / "hub" / f"models--{repository.replace('/', '--')}" / "snapshots" / COMMIT


def test_mlx_weights_are_used_where_they_lie(server: Server, hub: LocalHub, tmp_path: Path) -> None:
    lines = server.lines("/api/pull", {"model": f"hf.co/{REPOSITORY}"})
    statuses = [line.get("status") for line in lines]
    assert list(dict.fromkeys(statuses)) == ["pulling manifest", "pulling model", "writing manifest", "success"], lines
    pulled = [line for line in lines if line["status"] == "pulling model"]
    assert pulled[-1]["completed"] == pulled[-1]["total"]
    assert {line["digest"] for line in pulled} == {"sha256:model"}
    names = {path.name for path in snapshot(tmp_path).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not {"README.md", "setup.py", "original"} & names
    answer = server.post("/api/generate", {"model": f"hf.co/{REPOSITORY}", **PROMPT})
    assert answer.status_code == 200, answer.text
    assert server.client.get("/api/tags").json()["models"][0]["name"] == f"hf.co/{REPOSITORY}:latest"
    # Nothing of it is in our own folders.
    assert sum(path.stat().st_size for path in server.home.rglob("*") if path.is_file()) < 10_000
    again = server.lines("/api/pull", {"model": f"hf.co/{REPOSITORY}"})
    assert again[-1] == {"status": "success"}
    assert sum(count for path, count in hub.requests.items() if path.startswith("GET /cdn")) == 1
