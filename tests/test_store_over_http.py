"""Creating, copying and deleting through HTTP, with what can go wrong on the way."""

import hashlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import ollama
import psutil
import pytest

from mlx_ollama.models.names import ModelName
from mlx_ollama.models.store import Store
from tests.support.cli import import_model
from tests.support.processes import children
from tests.support.server import Server, serving, wait_until
from tests.worker.gguf_files import TinyLlama, write_gguf

MIB = 1 << 20
LARGE = TinyLlama(layers=24, hidden=512, ffn=2048, heads=8, kv_heads=8, head_dim=64)
"""Its conversion takes a second or more."""
ASK = {"prompt": "bada", "raw": True, "stream": False, "options": {"num_predict": 4}}


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", TinyLlama(layers=1))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "home") as running:
        yield running


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _upload(server: Server, content: bytes) -> str:
    digest = _digest(content)
    assert server.client.post(f"/api/blobs/{digest}", content=content).status_code in (200, 201)
    return digest


def _blobs(server: Server) -> set[str]:
    return {path.name for path in (server.home / "models" / "blobs").glob("*")}


def test_a_gguf_file_becomes_a_model_that_answers(server: Server, gguf: Path) -> None:
    client = ollama.Client(host=server.url)
    with client._client:
        digest = client.create_blob(gguf)
        statuses = [line.status for line in client.create("own", files={"tiny.gguf": digest}, stream=True)]
        assert statuses[0] == "parsing GGUF"
        assert statuses[-2:] == ["writing manifest", "success"]
        answer = client.generate("own", "The", raw=True, options={"num_predict": 4})
        assert answer.done_reason in ("length", "stop")
        details = client.show("own").details
    assert details
    assert details.format == "gguf"


def test_safetensors_become_a_model_that_answers(server: Server, tiny_directory: Path) -> None:
    files = {file.name: _upload(server, file.read_bytes()) for file in tiny_directory.iterdir() if file.is_file()}
    lines = server.lines("/api/create", {"model": "own", "files": files, "parameters": {"temperature": 0}})
    assert lines[0] == {"status": "converting model"}
    assert lines[-1] == {"status": "success"}, lines
    shown = server.post("/api/show", {"model": "own"}).json()
    assert shown["details"]["format"] == "safetensors"
    assert shown["capabilities"] == ["completion"]
    answer = server.post("/api/generate", {"model": "own", **ASK})
    assert answer.json()["eval_count"] > 0
    quantised = {"model": "small", "files": files, "quantize": "q8_0", "stream": False}
    assert server.post("/api/create", quantised).json() == {"status": "success"}
    assert server.post("/api/show", {"model": "small"}).json()["details"]["quantization_level"] == "Q8_0"
    answer = server.post("/api/generate", {"model": "small", **ASK})
    assert answer.json()["eval_count"] > 0


def test_safetensors_without_a_configuration(server: Server) -> None:
    digest = _upload(server, b"weights")
    lines = server.lines("/api/create", {"model": "own", "files": {"model.safetensors": digest}})
    assert "has no config.json" in lines[-1]["error"]
    assert server.client.get("/api/tags").json() == {"models": []}


def test_what_cannot_be_used_here_is_refused_by_name(server: Server, tmp_path: Path) -> None:
    strange = write_gguf(tmp_path / "mamba.gguf", TinyLlama(layers=1), architecture="mamba")
    digest = _upload(server, strange.read_bytes())
    lines = server.lines("/api/create", {"model": "own", "files": {"m.gguf": digest}})
    assert "mamba" in lines[-1]["error"]
    assert server.client.get("/api/tags").json() == {"models": []}


def test_shared_blobs_survive_and_the_last_one_takes_them_along(server: Server, gguf: Path) -> None:
    digest = _upload(server, gguf.read_bytes())
    create = {"model": "one", "files": {"tiny.gguf": digest}, "system": "S", "stream": False}
    assert server.post("/api/create", create).json() == {"status": "success"}
    assert server.post("/api/copy", {"source": "one", "destination": "two"}).content == b""
    converted = server.home / "converted"
    assert server.client.request("DELETE", "/api/delete", json={"model": "ONE"}).status_code == 200
    assert digest.replace(":", "-") in _blobs(server)
    assert server.post("/api/show", {"model": "two"}).json()["system"] == "S"
    assert [path.name for path in converted.iterdir() if path.is_dir()]
    assert server.client.request("DELETE", "/api/delete", json={"name": "two"}).status_code == 200
    assert _blobs(server) == set()
    assert not [path.name for path in converted.iterdir() if path.is_dir()]
    assert server.client.head(f"/api/blobs/{digest}").status_code == 404


def test_replacing_a_model_leaves_nothing_of_the_old_one(server: Server, tiny_directory: Path) -> None:
    import_model(server.home, "base", tiny_directory)
    for system in ("one", "two", "three"):
        server.post("/api/create", {"model": "m", "from": "base", "system": system, "stream": False})
    assert _digest(b"three").replace(":", "-") in _blobs(server)
    assert _digest(b"two").replace(":", "-") not in _blobs(server)


def test_a_large_blob_goes_to_disk_and_not_to_memory(server: Server) -> None:
    piece = os.urandom(MIB)
    sha256 = hashlib.sha256()
    for _ in range(300):
        sha256.update(piece)

    def pieces() -> Iterator[bytes]:
        for _ in range(300):
            yield piece

    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    answer = server.client.post(f"/api/blobs/sha256:{sha256.hexdigest()}", content=pieces())
    assert answer.status_code == 201
    assert process.memory_info().rss - before < 100 * MIB
    assert (server.home / "models" / "blobs" / f"sha256-{sha256.hexdigest()}").stat().st_size == 300 * MIB
    again = server.client.post(f"/api/blobs/sha256:{sha256.hexdigest()}", content=pieces())
    assert (again.status_code, again.content) == (200, b""), "an answer against unread data would be lost"


def test_a_blob_in_tiny_pieces_costs_what_they_cost(server: Server) -> None:
    """Not their number's square, on the loop that answers everybody."""
    content = b"x" * 40_000
    chunks = b"".join(b"1\r\nx\r\n" for _ in content) + b"0\r\n\r\n"
    head = f"POST /api/blobs/{_digest(content)} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    process = psutil.Process(server.process.pid)
    before = sum(process.cpu_times()[:2])
    with socket.create_connection((server.host, server.port), timeout=120) as connection:
        connection.sendall(head.encode() + chunks)
        assert connection.recv(1024).startswith(b"HTTP/1.1 201 ")
    assert sum(process.cpu_times()[:2]) - before < 5


def test_an_upload_that_breaks_off_leaves_nothing(server: Server) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"x" * MIB
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError), httpx.Client(base_url=server.url, trust_env=False) as client:
        client.post(f"/api/blobs/sha256:{'0' * 64}", content=pieces())
    wait_until(lambda: not _blobs(server), "the upload's end")
    assert server.client.get("/api/version").status_code == 200


def test_kill_while_creating_leaves_a_consistent_store(tmp_path: Path, gguf: Path) -> None:
    home = tmp_path / "home"
    with serving(home) as server:
        digest = _upload(server, gguf.read_bytes())
        server.post("/api/create", {"model": "old", "files": {"t.gguf": digest}, "system": "S", "stream": False})
        delays = (0.0, 0.01, 0.03)
    for delay in delays:
        with serving(home) as server:
            # The directory is made again, so that there is something to interrupt.
            threading.Thread(target=_create_many, args=(server.url, digest), daemon=True).start()
            wait_until(lambda: _made(home), "the first new model")
            threading.Event().wait(delay)
            server.process.send_signal(signal.SIGKILL)
            server.process.wait(30)
        store = Store(home / "models")
        for name in store.names():
            model = store.find(name)
            assert model is not None
            assert all(store.blobs.has(layer.digest) for layer in model.layers)
        assert store.find(ModelName.parse("old")) is not None
        for name in list(store.names()):
            if name.model != "old":
                store.delete(name)
        store.sweep()
        assert not list((home / "models").rglob(".partial*"))


def _made(home: Path) -> bool:
    return any(name.model != "old" for name in Store(home / "models").names())


def _create_many(url: str, digest: str) -> None:
    with httpx.Client(base_url=url, trust_env=False) as client:
        for number in range(10_000):
            body = {"model": f"new{number}", "from": "old", "system": f"S{number}", "parameters": {"seed": number}}
            try:
                client.post("/api/create", json={**body, "stream": False})
            except httpx.HTTPError:
                return


def test_two_processes_create_at_once(tmp_path: Path, gguf: Path, tiny_directory: Path) -> None:
    home = tmp_path / "home"
    import_model(home, "base", tiny_directory)
    with serving(home) as first, serving(home) as second:
        results: list[Any] = []

        def create(server: Server, number: int) -> None:
            with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
                for round_number in range(8):
                    body = {"model": "m", "from": "base", "system": f"S{number}", "parameters": {"seed": round_number}}
                    results.append(client.post("/api/create", json={**body, "stream": False}).json())

        threads = [
            threading.Thread(target=create, args=(server, number)) for number, server in enumerate((first, second))
        ]
        digest = _upload(first, gguf.read_bytes())
        made = [
            threading.Thread(
                target=lambda server=server: results.append(
                    server.post("/api/create", {"model": "g", "files": {"t.gguf": digest}, "stream": False}).json()
                )
            )
            for server in (first, second)
        ]
        for thread in (*threads, *made):
            thread.start()
        for thread in (*threads, *made):
            thread.join(120)
        assert results == [{"status": "success"}] * 18
        system = first.post("/api/show", {"model": "m"}).json()["system"]
        assert system in ("S0", "S1")
        assert second.post("/api/show", {"model": "g"}).status_code == 200
    store = Store(home / "models")
    for name in store.names():
        model = store.find(name)
        assert model is not None
        assert all(store.blobs.has(layer.digest) for layer in model.layers)


def test_a_full_disk(tmp_path: Path, tiny_directory: Path) -> None:
    """A limit on the size of files fails a write as a full disk does."""
    home = tmp_path / "home"
    import_model(home, "base", tiny_directory)
    with serving(home) as server:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (64 * 1024, hard))
        content = os.urandom(MIB)
        refused = server.client.post(f"/api/blobs/{_digest(content)}", content=content)
        assert refused.status_code == 500
        assert "cannot be written" in refused.json()["error"]
        large = {"model": "big", "from": "base", "system": "x" * 100_000, "stream": False}
        refused = server.post("/api/create", large)
        assert refused.status_code == 500
        assert "cannot write big:latest" in refused.json()["error"]
        assert not [name for name in _blobs(server) if name.startswith(".")]
        assert server.post("/api/show", {"model": "base"}).status_code == 200
        small = {"model": "ok", "from": "base", "system": "x", "stream": False}
        assert server.post("/api/create", small).json() == {"status": "success"}


def test_a_client_that_leaves_ends_the_conversion(server: Server, tmp_path: Path) -> None:
    digest = _upload(server, write_gguf(tmp_path / "large.gguf", LARGE).read_bytes())
    with server.client.stream("POST", "/api/create", json={"model": "l", "files": {"l.gguf": digest}}) as answer:
        for line in answer.iter_lines():
            if json.loads(line)["status"] == "converting model":
                break
    wait_until(lambda: not psutil.Process(server.process.pid).children(), "the end of the conversion")
    assert server.client.get("/api/tags").json() == {"models": []}
    wait_until(lambda: not list((server.home / "converted").glob(".partial-*")), "a tidy folder")


def test_a_server_that_is_to_stop_does_not_wait_for_a_conversion(tmp_path: Path) -> None:
    """One that a load has begun: of a model that was adopted, or whose directory was removed."""
    with serving(tmp_path / "home", "--drain", "0.1") as server, ThreadPoolExecutor(1) as pool:
        digest = _upload(server, write_gguf(tmp_path / "large.gguf", replace(LARGE, layers=12)).read_bytes())
        made = server.post("/api/create", {"model": "large", "files": {"l.gguf": digest}, "stream": False})
        assert made.json() == {"status": "success"}
        shutil.rmtree(server.home / "converted")
        question = {"model": "large", **ASK}
        asking = pool.submit(httpx.post, f"{server.url}/api/generate", json=question, timeout=60, trust_env=False)
        wait_until(lambda: children(psutil.Process(server.process.pid), "mlx_ollama.worker.convert"), "the conversion")
        assert server.stop() == 0
        assert "error" in asking.result().json()
    assert not [path for path in (server.home / "converted").iterdir() if not path.name.startswith(".")]


def test_a_model_whose_directory_was_removed_is_made_again(server: Server, gguf: Path) -> None:
    digest = _upload(server, gguf.read_bytes())
    server.post("/api/create", {"model": "own", "files": {"t.gguf": digest}, "stream": False})
    (made,) = [path for path in (server.home / "converted").iterdir() if path.is_dir()]
    subprocess.run(["rm", "-r", made], check=True)
    answer = server.post("/api/generate", {"model": "own", **ASK})
    assert answer.status_code == 200, answer.text
    assert made.is_dir()
