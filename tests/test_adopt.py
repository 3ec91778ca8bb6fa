"""Models that Ollama and the tools of the hub have fetched already: listed, adopted, and used as they lie."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.server import Server, run_cli, serving
from tests.worker.gguf_files import TinyLlama, write_gguf

pytestmark = pytest.mark.xdist_group("adopt")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROMPT = {"prompt": "The", "raw": True, "stream": False, "options": {"num_predict": 2}}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, tiny_directory: Path) -> Path:
    """`ollama`, a store as Ollama has it, with two models; `hf`, a cache of the hub with `acme/Tiny`."""
    folder = tmp_path_factory.mktemp("elsewhere")
    gguf = write_gguf(folder / "tiny.gguf", TinyLlama(layers=1))
    (folder / "Modelfile").write_text(f"FROM {gguf}\nSYSTEM Be brief.\nPARAMETER top_k 7\n")
    for name in ("theirs", "ns/other:v1"):
        made = run_cli("create", name, "-f", str(folder / "Modelfile"), "--home", str(folder / "ollama"))
        assert made.returncode == 0, made.stderr
    shutil.rmtree(folder / "ollama" / "converted")
    repository = folder / "hf" / "hub" / "models--acme--Tiny"
    snapshot = shutil.copytree(tiny_directory, repository / "snapshots" / COMMIT)
    config = json.loads((snapshot / "config.json").read_text())
    (snapshot / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    # Neither what was fetched in part nor what is no model of text is listed.
    for name, files in {"Half": ["config.json"], "Nothing": []}.items():
        snapshot = folder / "hf" / "hub" / f"models--acme--{name}" / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        for file in files:
            shutil.copy(tiny_directory / file, snapshot / file)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text(COMMIT)
    return folder


@pytest.fixture(scope="module")
def env(elsewhere: Path) -> Mapping[str, str]:
    return {"OLLAMA_MODELS": str(elsewhere / "ollama" / "models"), "HF_HOME": str(elsewhere / "hf")}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, env: Mapping[str, str]) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("adopting") / "home", env={**env, "MLX_API_ADOPT": "1"}) as running:
        yield running


def test_they_are_listed(tmp_path: Path, env: Mapping[str, str], elsewhere: Path) -> None:
    listed = run_cli("ollama-models", "--home", str(tmp_path / "home"), env=env).stdout.splitlines()
    assert listed[0].split() == ["NAME", "SIZE", "MODIFIED", "OWNER", "ADOPTED"]
    names = {"theirs:latest", "ns/other:v1", "acme/Tiny:latest"}
    assert {(line.split()[0], line.split()[-1]) for line in listed[1:]} == {(name, "no") for name in names}
    assert sum("Hugging Face" in line for line in listed) == 1
    path = str(elsewhere / "ollama" / "models")
    named = run_cli("ollama-models", path, "--home", str(tmp_path / "home"), env={"HF_HOME": str(tmp_path)})
    assert len(named.stdout.splitlines()) == 3


def test_adopting_links_and_converts_once(tmp_path: Path, env: Mapping[str, str], elsewhere: Path) -> None:
    home = tmp_path / "home"
    done = run_cli("adopt", "theirs", "acme/tiny", "--home", str(home), env=env)
    assert (done.returncode, done.stdout) == (0, "adopted 'theirs:latest'\nadopted 'acme/Tiny:latest'\n"), done.stderr
    theirs = {blob.name: blob for blob in (elsewhere / "ollama" / "models" / "blobs").iterdir()}
    linked = [blob for blob in (home / "models" / "blobs").iterdir() if blob.name in theirs]
    assert all(blob.samefile(theirs[blob.name]) for blob in linked)
    assert any(blob.stat().st_size > 10_000 for blob in linked)
    assert len(list((home / "converted").glob("sha256-*"))) == 1
    assert not (elsewhere / "ollama" / "converted").exists()
    everything = run_cli("adopt", "--all", "--home", str(home), env=env)
    assert everything.stdout == "adopted 'ns/other:v1'\n"
    listed = run_cli("ollama-models", "--home", str(home), env=env).stdout.splitlines()
    assert {line.split()[-1] for line in listed[1:]} == {"yes"}
    shown = run_cli("show", "theirs", "--system", "--home", str(home))
    assert shown.stdout == "Be brief.\n"
    with serving(home) as server:
        for name in ("theirs", "acme/Tiny"):
            answer = server.post("/api/generate", {"model": name, **PROMPT})
            assert answer.status_code == 200, answer.text


def test_what_cannot_be_linked_is_referred_to(tmp_path: Path, env: Mapping[str, str]) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or not os.access(other, os.W_OK) or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other file system")
    home = other / f"mlx-ollama-{os.getpid()}"
    try:
        assert run_cli("adopt", "theirs", "--home", str(home), env=env).returncode == 0
        assert all(path.is_symlink() for path in (home / "models" / "blobs").glob("sha256-*"))
        assert run_cli("show", "theirs", "--home", str(home)).returncode == 0
        assert run_cli("rm", "theirs", "--home", str(home)).returncode == 0
        assert not list((home / "models" / "blobs").glob("sha256-*"))
    finally:
        shutil.rmtree(home)
    assert "theirs:latest" in run_cli("ollama-models", "--home", str(tmp_path), env=env).stdout


def test_what_is_not_there(tmp_path: Path, env: Mapping[str, str]) -> None:
    home = ("--home", str(tmp_path / "home"))
    missing = run_cli("adopt", "theirs", "nope", *home, env=env)
    assert missing.returncode == 1
    assert "nope is neither in Ollama's store nor in the hub's cache" in missing.stderr
    assert "theirs" not in run_cli("list", *home).stdout
    assert "name the models to adopt, or say --all" in run_cli("adopt", *home, env=env).stderr
    nothing = run_cli("ollama-models", str(tmp_path), *home, env={"HF_HOME": str(tmp_path)})
    assert (nothing.returncode, len(nothing.stdout.splitlines())) == (0, 1)


def test_with_the_setting_they_are_here_at_once(server: Server) -> None:
    listed = {model["name"]: model for model in server.client.get("/api/tags").json()["models"]}
    assert set(listed) == {"theirs:latest", "ns/other:v1", "acme/Tiny:latest"}
    assert listed["theirs:latest"]["details"]["family"] == "llama"
    assert not (server.home / "converted").exists()
    for name in ("THEIRS", "acme/Tiny"):
        answer = server.post("/api/generate", {"model": name, **PROMPT})
        assert answer.status_code == 200, answer.text
    assert server.post("/api/show", {"model": "theirs"}).json()["system"] == "Be brief."
    assert len(list((server.home / "converted").glob("sha256-*"))) == 1
    assert not list(server.home.glob("models/manifests/*"))


def test_they_are_deleted_where_they_are(server: Server) -> None:
    refused = server.client.request("DELETE", "/api/delete", json={"model": "ns/other:v1"})
    assert refused.status_code == 400
    assert refused.json() == {"error": 'model "ns/other:v1" belongs to Ollama and is deleted there'}


def test_what_is_built_on_them_enters_them(server: Server) -> None:
    assert server.post("/api/copy", {"source": "ns/other:v1", "destination": "copied"}).status_code == 200
    made = server.post("/api/create", {"model": "built", "from": "acme/Tiny", "system": "x", "stream": False})
    assert made.json() == {"status": "success"}
    names = [model["name"] for model in server.client.get("/api/tags").json()["models"]]
    assert sorted(names) == sorted({*names})
    assert {"copied:latest", "built:latest", "ns/other:v1", "acme/Tiny:latest"} <= set(names)
