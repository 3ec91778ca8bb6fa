"""A full disk, and files that are not what they should be: told, and nothing that was stored is lost."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.standing import good_text, standing
from tests.faults.storing import (
    CUTS,
    DAMAGES,
    ROOM_BYTES,
    cut_off,
    damaged,
    digest_of,
    full_disk,
    import_model,
    partials,
    upload,
)
from tests.support.registry import LocalRegistry
from tests.support.server import Server, serving
from tests.worker.gguf_files import TinyLlama, write_gguf

pytestmark = [
    pytest.mark.xdist_group("matrix-store"),
    pytest.mark.skipif(
        sys.platform != "linux", reason="files of another process cannot be limited, and no disk is full"
    ),
]

WORDS = "told in the last line"


@dataclass(frozen=True)
class Bench:
    server: Server
    good: str
    gguf: bytes


@pytest.fixture(scope="module")
def bench(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("store")
    import_model(folder / "home", "tiny", tiny_directory)
    gguf = write_gguf(folder / "tiny.gguf", TinyLlama(layers=1)).read_bytes()
    with serving(folder / "home", env={"MLX_API_LOG_FILE": "/dev/full"}) as server:
        yield Bench(server, good_text(server), gguf)


@pytest.mark.fault("a full disk", "create", "told 500")
def test_no_room_to_create(bench: Bench) -> None:
    server = bench.server
    with standing(server, bench.good):
        with full_disk(server):
            refused = upload(server, os.urandom(1 << 20))
            assert (refused.status_code, "cannot be written" in refused.json()["error"]) == (500, True)
            large = {"model": "big", "from": "tiny", "system": "x" * 2 * ROOM_BYTES, "stream": False}
            refused = server.post("/api/create", large)
            assert (refused.status_code, "cannot write big:latest" in refused.json()["error"]) == (500, True)
        assert not partials(server.home)
        assert server.post("/api/create", large).json() == {"status": "success"}


@pytest.mark.fault("a full disk", "pull", "told in the last line")
def test_no_room_to_pull(bench: Bench) -> None:
    server = bench.server
    with LocalRegistry(bench.gguf).serving() as registry, standing(server, bench.good):
        call = {"model": f"http://{registry.host}/ns/m", "insecure": True}
        with full_disk(server):
            assert "cannot be stored" in server.lines("/api/pull", call)[-1]["error"]
        assert server.lines("/api/pull", call)[-1] == {"status": "success"}


@pytest.mark.fault("a full disk", "log", "nothing: standard error has the lines, and says so")
def test_no_room_for_the_log(bench: Bench) -> None:
    with standing(bench.server, bench.good):
        assert bench.server.client.get("/api/version").status_code == 200
    said = bench.server.log.read_text()
    assert said.count("the log cannot be written to /dev/full") == 1
    assert "GET /api/version 200" in said


@pytest.mark.parametrize(
    "damage",
    [pytest.param(damage, marks=pytest.mark.fault(damage, "loading", "told 500"), id=damage) for damage in DAMAGES],
)
def test_a_model_that_is_damaged(bench: Bench, tiny_directory: Path, tmp_path: Path, damage: str) -> None:
    server = bench.server
    model = damaged(server.home, tiny_directory, tmp_path, damage)
    with standing(server, bench.good):
        refused = server.post("/api/generate", {"model": model, "prompt": "x", "stream": False})
        assert refused.status_code == 500
        assert refused.json()["error"]
    assert server.client.request("DELETE", "/api/delete", json={"model": model}).status_code == 200


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(where, marks=pytest.mark.fault(f"a GGUF file cut off in its {where}", "create", WORDS), id=where)
        for where in CUTS
    ],
)
def test_a_gguf_file_that_is_cut_off(bench: Bench, where: str) -> None:
    server, content = bench.server, cut_off(bench.gguf, where)
    with standing(server, bench.good):
        assert upload(server, content).status_code in (200, 201)
        lines = server.lines("/api/create", {"model": "cut", "files": {"cut.gguf": digest_of(content)}})
        assert lines[-1]["error"]
        assert not partials(server.home)
        assert server.post("/api/show", {"model": "cut"}).status_code == 404
