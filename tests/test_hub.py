"""Pulling from the Hugging Face hub, and what may break on the way."""

import hashlib
import re
import resource
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.support.embedders import write_tiny_encoder
from tests.support.hub import COMMIT, LocalHub
from tests.support.processes import children
from tests.support.server import Server, clean_environment, run_cli, serving, wait_until
from tests.support.terminal import terminal
from tests.worker.gguf_files import TinyLlama, write_gguf

pytestmark = pytest.mark.xdist_group("hub")

TOKEN = "hf_" + "x" * 8
PROMPT = {"prompt": "The", "raw": True, "stream": False, "options": {"num_predict": 2}}


@pytest.fixture(scope="module")
def mlx_files(tiny_directory: Path) -> dict[str, bytes]:
    files = {path.name: path.read_bytes() for path in tiny_directory.iterdir() if path.is_file()}
    return files | {"README.md": b"# Tiny", "setup.py": b"raise SystemExit", "original/model.safetensors": b"other"}


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", TinyLlama(layers=1)).read_bytes()


@pytest.fixture(scope="module")
def running_hub() -> Iterator[LocalHub]:
    with LocalHub().serving() as running:
        yield running


@pytest.fixture
def hub(running_hub: LocalHub, mlx_files: dict[str, bytes], gguf: bytes, request: pytest.FixtureRequest) -> LocalHub:
    """The hub without faults, with repositories that nobody has fetched yet."""
    ggufs = {"tiny-Q8_0.gguf": b"not this", "tiny-Q4_K_M.gguf": gguf, "mmproj-F16.gguf": b"nor this"}
    owner = f"acme{zlib.crc32(request.node.name.encode()):x}"
    running_hub.begin_anew({f"{owner}/Tiny-4bit": mlx_files, f"{owner}/Tiny-GGUF": ggufs})
    return running_hub


@pytest.fixture
def mlx(hub: LocalHub) -> str:
    """A repository of MLX weights."""
    return next(iter(hub.repositories))


@pytest.fixture
def ggufs(hub: LocalHub) -> str:
    """A repository of GGUF files."""
    return list(hub.repositories)[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def server(folder: Path, running_hub: LocalHub) -> Iterator[Server]:
    with serving(folder / "home", env=running_hub.environment(folder / "hf")) as running:
        yield running


def test_mlx_weights_are_used_where_they_lie(server: Server, hub: LocalHub, mlx: str, folder: Path) -> None:
    lines = server.lines("/api/pull", {"model": f"hf.co/{mlx}"})
    statuses = [line.get("status") for line in lines]
    assert list(dict.fromkeys(statuses)) == ["pulling manifest", "pulling model", "writing manifest", "success"], lines
    pulled = [line for line in lines if line["status"] == "pulling model"]
    assert pulled[-1]["completed"] == pulled[-1]["total"]
    assert {line["digest"] for line in pulled} == {"sha256:model"}
    names = {path.name for path in _snapshot(folder, mlx).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not {"README.md", "setup.py", "original"} & names
    answer = server.post("/api/generate", {"model": f"hf.co/{mlx}", **PROMPT})
    assert answer.status_code == 200, answer.text
    assert f"hf.co/{mlx}:latest" in _listed(server)
    # Nothing of it is in our own folders.
    assert max(path.stat().st_size for path in server.home.rglob("*") if path.is_file()) < 10_000
    # What other tools of the hub look for.
    assert (_snapshot(folder, mlx).parents[1] / "refs" / "main").read_text() == COMMIT
    again = server.lines("/api/pull", {"model": f"hf.co/{mlx}"})
    assert again[-1] == {"status": "success"}
    assert hub.downloads(mlx) == 1


def test_an_embedder_comes_with_its_steps(server: Server, hub: LocalHub, mlx: str, tmp_path: Path) -> None:
    directory = write_tiny_encoder(tmp_path, dense=8)
    files = {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    assert {"modules.json", "1_Pooling/config.json", "2_Dense/model.safetensors"} <= set(files)
    hub.repositories[mlx] = {**files, "onnx/config.json": b"{}", "onnx/model.safetensors": b"other"}
    assert server.lines("/api/pull", {"model": mlx})[-1] == {"status": "success"}
    assert not [path for path in hub.requests if "onnx" in path]
    answer = server.post("/api/embed", {"model": mlx, "input": "ba be"})
    assert len(answer.json()["embeddings"][0]) == 8, answer.text


def test_a_gguf_file_is_chosen_by_its_tag_linked_and_converted(server: Server, ggufs: str, folder: Path) -> None:
    name = f"hf.co/{ggufs}:Q4_K_M"
    statuses = [line.get("status") for line in server.lines("/api/pull", {"model": name})]
    assert statuses[0] == "pulling manifest"
    assert statuses[-2:] == ["writing manifest", "success"]
    assert "verifying sha256 digest" in statuses
    (file,) = _snapshot(folder, ggufs).iterdir()
    assert file.name == "tiny-Q4_K_M.gguf"
    (blob,) = (path for path in server.home.glob("models/blobs/sha256-*") if path.samefile(file))
    assert blob.name == f"sha256-{file.resolve().name}"
    answer = server.post("/api/generate", {"model": name, **PROMPT})
    assert answer.status_code == 200, answer.text


def test_without_a_tag_the_everyday_quantisation_is_taken(server: Server, ggufs: str, folder: Path) -> None:
    assert server.lines("/api/pull", {"model": ggufs})[-1] == {"status": "success"}
    assert [file.name for file in _snapshot(folder, ggufs).iterdir()] == ["tiny-Q4_K_M.gguf"]
    assert server.post("/api/show", {"model": ggufs}).status_code == 200


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("hf.co/{ggufs}:Q3_K_S", "it has no GGUF file Q3_K_S, but tiny-Q4_K_M.gguf, tiny-Q8_0.gguf"),
        ("hf.co/{mlx}:nobranch", "pull model manifest: {mlx} has no such branch or tag"),
        (
            "hf.co/acme/none",
            "pull model manifest: file does not exist; what is private is shown to those who set HF_TOKEN",
        ),
        ("acme/none", "pull model manifest: file does not exist; what is private is shown to those who set HF_TOKEN"),
        ("hf.co/acme/Parts", "big-00001-of-00002.gguf is one of several parts"),
        ("hf.co/acme/Programs", "it has neither MLX weights (config.json and model*.safetensors) nor a GGUF file"),
    ],
)
def test_what_cannot_be_had_is_said(
    server: Server, hub: LocalHub, mlx: str, ggufs: str, *, model: str, error: str
) -> None:
    hub.repositories["acme/Parts"] = {"big-00001-of-00002.gguf": b"a", "big-00002-of-00002.gguf": b"b"}
    hub.repositories["acme/Programs"] = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    before = _listed(server)
    last = server.lines("/api/pull", {"model": model.format(mlx=mlx, ggufs=ggufs)})[-1]
    assert error.format(mlx=mlx) in last["error"]
    assert _listed(server) == before


def test_a_name_of_the_catalog_is_a_repository(server: Server, hub: LocalHub, mlx: str) -> None:
    hub.repositories["mlx-community/Qwen2.5-Coder-32B-Instruct-4bit"] = hub.repositories[mlx]
    assert server.lines("/api/pull", {"model": "qwen2.5-coder:32b"})[-1] == {"status": "success"}
    assert "qwen2.5-coder:32b" in _listed(server)
    answer = server.post("/api/generate", {"model": "qwen2.5-coder:32b", **PROMPT})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("model", "near"),
    [
        ("qwen25-coder:32b", "; did you mean qwen2.5-coder:32b, "),
        ("lama3.2", "; did you mean llama3.2, "),
        ("llama3.2:5b", "; did you mean llama3.2:3b, "),
        ("zzzzzzzz", ""),
    ],
)
def test_unknown_names_get_near_ones(server: Server, model: str, near: str) -> None:
    last = server.lines("/api/pull", {"model": model})[-1]
    assert last["error"].startswith(f"pull model manifest: file does not exist{near}")
    assert bool(near) == ("did you mean" in last["error"])


@pytest.mark.parametrize("model", ["codellama:7b", "qwen2.5:7b-instruct-q8_0"])
def test_a_name_without_a_row_is_asked_of_the_registry_alone(server: Server, hub: LocalHub, model: str) -> None:
    last = server.lines("/api/pull", {"model": model})[-1]
    assert last["error"].startswith("pull model manifest: file does not exist; did you mean ")
    assert [*hub.requests] == [f"GET /v2/library/{model.replace(':', '/manifests/')}"]


@pytest.mark.parametrize("content", [None, {"config.json": b"{}", "weights.npz": b"old"}])
def test_the_registry_has_what_the_hub_has_not(server: Server, hub: LocalHub, content: dict[str, bytes] | None) -> None:
    """A row whose repository went away, or is of a form that nobody reads any more, costs nobody the model."""
    if content:
        hub.repositories["mlx-community/Yi-1.5-9B-Chat-4bit"] = content
    last = server.lines("/api/pull", {"model": "yi:9b"})[-1]
    assert "error" in last
    assert hub.requests["GET /v2/library/yi/manifests/9b"] == 1


def test_a_branch_is_a_tag(server: Server, hub: LocalHub, mlx: str) -> None:
    hub.revisions.add("v2")
    assert server.lines("/api/pull", {"model": f"hf.co/{mlx}:v2"})[-1] == {"status": "success"}


def test_a_token_is_for_the_hub_alone(tmp_path: Path, hub: LocalHub, mlx: str) -> None:
    hub.token = TOKEN
    refused = _pulled(tmp_path, hub, mlx)
    assert refused.returncode == 1
    assert "accepted its terms" in refused.stderr
    done = _pulled(tmp_path, hub, mlx, {"HF_TOKEN": TOKEN})
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["pulling manifest", "pulling model", "writing manifest", "success"]
    assert hub.shown_tokens[f"/api/models/{mlx}/revision/main"] == f"Bearer {TOKEN}"
    assert hub.shown_tokens[_large(mlx)] == ""


def test_a_terminal_sees_a_bar_and_can_end_it(tmp_path: Path, hub: LocalHub, mlx: str) -> None:
    hub.pace = 0.2
    command = [sys.executable, "-m", "mlx_ollama", "pull", mlx, "--home", str(tmp_path / "home")]
    with terminal(command, columns=100, env=hub.environment(tmp_path / "hf")) as shown:
        shown.expect("pulling model")
        # A rate, and the time that is left.
        assert re.search(r"▏ [\d.]+ KB/[\d.]+ KB  [\d.]+ KB/s  $", shown.expect("KB/s  "))
        shown.type("\x03")
        assert shown.ended() == 130
    hub.pace = 0.0
    assert _pulled(tmp_path, hub, mlx).returncode == 0
    assert len(hub.ranges) == 1


def test_what_breaks_off_is_taken_up_and_never_goes_backwards(server: Server, hub: LocalHub, mlx: str) -> None:
    size = len(hub.repositories[mlx]["model.safetensors"])
    hub.breaks, hub.pace = [size // 2, size // 4], 0.02
    lines = server.lines("/api/pull", {"model": mlx})
    assert lines[-1] == {"status": "success"}
    counts = [line.get("completed", 0) for line in lines if line["status"] == "pulling model"]
    assert counts == sorted(counts)
    assert len(set(counts)) > 3
    assert len(hub.ranges) == 2
    assert all(int(span.removeprefix("bytes=").partition("-")[0]) > 0 for span in hub.ranges)


def test_a_stall_is_noticed(server: Server, hub: LocalHub, mlx: str) -> None:
    hub.breaks, hub.stalls = [len(hub.repositories[mlx]["model.safetensors"]) // 2], True
    assert server.lines("/api/pull", {"model": mlx})[-1] == {"status": "success"}
    assert len(hub.ranges) == 1


def test_a_server_that_fails_for_a_while(server: Server, hub: LocalHub, mlx: str) -> None:
    hub.statuses[_large(mlx)] = [500, 502, 0]
    assert server.lines("/api/pull", {"model": mlx})[-1] == {"status": "success"}


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/api/models/{mlx}/revision/main", 500, "pull model manifest: 500: "),
        ("/cdn/{mlx}/resolve/{commit}/model.safetensors", 403, "403: "),
        ("/{mlx}/resolve/{commit}/config.json", 404, "404: "),
    ],
)
def test_refusals(server: Server, hub: LocalHub, mlx: str, *, path: str, status: int, error: str) -> None:
    hub.statuses[path.format(mlx=mlx, commit=COMMIT)] = [status]
    last = server.lines("/api/pull", {"model": mlx})[-1]
    assert last["error"].startswith(error)
    assert f"{mlx}:latest" not in _listed(server)
    hub.statuses.clear()
    assert server.lines("/api/pull", {"model": mlx})[-1] == {"status": "success"}


@pytest.mark.parametrize("change", ["shorter", "longer", "other"])
def test_content_that_is_another(server: Server, hub: LocalHub, mlx: str, change: str) -> None:
    right = hub.repositories[mlx]["model.safetensors"]
    wrong = {"shorter": right[:-100], "longer": right + b"x" * 100, "other": right[:-1] + b"!"}[change]
    hub.changed["model.safetensors"] = wrong
    last = server.lines("/api/pull", {"model": mlx})[-1]
    words = {
        "shorter": "416: ",
        "longer": "model.safetensors is longer than the ",
        "other": "digest mismatch, file must be downloaded again: model.safetensors: want ",
    }
    assert words[change] in last["error"]
    assert f"{mlx}:latest" not in _listed(server)
    hub.changed.clear()
    assert server.lines("/api/pull", {"model": mlx})[-1] == {"status": "success"}


def test_a_small_file_that_is_another(server: Server, hub: LocalHub, mlx: str) -> None:
    right = hub.repositories[mlx]["config.json"]
    hub.changed["config.json"] = right.replace(b"8", b"9")
    assert "digest mismatch" in server.lines("/api/pull", {"model": mlx})[-1]["error"]
    hub.changed.clear()
    assert server.lines("/api/pull", {"model": mlx})[-1] == {"status": "success"}


def test_a_full_disk(tmp_path: Path, hub: LocalHub, mlx: str) -> None:
    with serving(tmp_path / "home", env=hub.environment(tmp_path / "hf")) as server:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (64 * 1024, hard))
        assert server.lines("/api/pull", {"model": mlx})[-1] == {"error": "no room on disk"}
        assert _listed(server) == []
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert server.lines("/api/pull", {"model": mlx})[-1] == {"status": "success"}
    assert len(hub.ranges) == 1


def test_a_killed_pull_goes_on_where_it_was(tmp_path: Path, hub: LocalHub, mlx: str) -> None:
    hub.breaks, hub.stalls = [len(hub.repositories[mlx]["model.safetensors"]) // 2] * 9, True
    command = [sys.executable, "-m", "mlx_ollama", "pull", mlx, "--home", str(tmp_path / "home")]
    environment = clean_environment() | hub.environment(tmp_path / "hf") | {"HF_HUB_DOWNLOAD_TIMEOUT": "60"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    partial = wait_until(lambda: _half(tmp_path / "hf", mlx), "half of the file")
    (fetching,) = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    # Nobody reads what it tells any more.
    wait_until(lambda: not fetching.is_running() or fetching.status() == psutil.STATUS_ZOMBIE, "the end")
    hub.breaks, hub.stalls = [], False
    assert run_cli("list", "--home", str(tmp_path / "home")).stdout.count("\n") == 1
    assert _pulled(tmp_path, hub, mlx).returncode == 0
    assert not partial.exists()
    assert len(hub.ranges) == 1


def test_a_large_file_comes_in_parts(tmp_path: Path, hub: LocalHub, mlx: str) -> None:
    content = hub.repositories[mlx]["model.safetensors"]
    part = len(content) // 3
    hub.most = part
    program = (
        "from mlx_ollama.hub.transfer import File, Transfer\n"
        f"file = File('model.safetensors', {len(content)}, {hashlib.sha256(content).hexdigest()!r})\n"
        f"(done,) = Transfer({mlx!r}, {COMMIT!r}, [file], part_bytes={part}).begin()\n"
        "print(done.result())"
    )
    environment = clean_environment() | hub.environment(tmp_path / "hf")
    done = subprocess.run([sys.executable, "-c", program], env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == content
    begins = range(0, len(content), part)
    assert hub.ranges == [
        f"bytes={begin}-{begin + part - 1 if begin + part < len(content) else ''}" for begin in begins
    ]


def test_more_than_fifty_gigabytes_are_taken_up_where_they_were(tmp_path: Path, hub: LocalHub, ggufs: str) -> None:
    size, done = 50_000_100_000, 50_000_000_000
    hub.pretended["tiny-Q8_0.gguf"] = size
    digest = hub.entry("tiny-Q8_0.gguf", hub.repositories[ggufs]["tiny-Q8_0.gguf"])["lfs"]["sha256"]
    blobs = _snapshot(tmp_path, ggufs).parents[1] / "blobs"
    blobs.mkdir(parents=True)
    partial = blobs / f"{digest}.mlx-ollama.incomplete"
    with partial.open("wb") as stream:
        # A hole, which takes no room on disk.
        stream.truncate(done)
    command = [sys.executable, "-m", "mlx_ollama", "pull", f"hf.co/{ggufs}:Q8_0", "--home", str(tmp_path / "home")]
    environment = clean_environment() | hub.environment(tmp_path / "hf")
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: partial.stat().st_size == size, "the end of the file")
    finally:
        # Its digest would take half a minute.
        process.kill()
        process.wait()
    assert hub.ranges == [f"bytes={done}-"]


def test_a_pull_that_its_client_leaves_is_taken_up(server: Server, hub: LocalHub, mlx: str, folder: Path) -> None:
    hub.breaks, hub.stalls = [len(hub.repositories[mlx]["model.safetensors"]) // 2], True
    with server.client.stream("POST", "/api/pull", json={"model": mlx}) as response:
        wait_until(lambda: _half(folder / "hf", mlx), "half of the file")
        next(response.iter_lines())
    wait_until(lambda: not _downloads(server), "the end of the download")
    hub.breaks, hub.stalls = [], False
    assert server.lines("/api/pull", {"model": mlx})[-1] == {"status": "success"}
    assert hub.downloads(mlx) == 2
    assert len(hub.ranges) == 1


def test_two_who_want_the_same_fetch_it_once(server: Server, hub: LocalHub, mlx: str) -> None:
    hub.pace = 0.05
    with ThreadPoolExecutor(2) as pool:
        pulls = [pool.submit(server.lines, "/api/pull", {"model": mlx}) for _ in range(2)]
        assert [pull.result()[-1] for pull in pulls] == [{"status": "success"}] * 2
    assert hub.downloads(mlx) == 1


def test_nobody_there(tmp_path: Path, hub: LocalHub, mlx: str) -> None:
    done = _pulled(tmp_path, hub, mlx, {"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert done.returncode == 1
    assert "pull model manifest: " in done.stderr
    assert "Connection refused" in done.stderr


def _snapshot(folder: Path, repository: str) -> Path:
    return folder / "hf" / "hub" / f"models--{repository.replace('/', '--')}" / "snapshots" / COMMIT


def _large(repository: str) -> str:
    return f"/cdn/{repository}/resolve/{COMMIT}/model.safetensors"


def _listed(server: Server) -> list[str]:
    return [model["name"] for model in server.client.get("/api/tags").json()["models"]]


def _half(cache: Path, repository: str) -> Path | None:
    found = list(cache.glob(f"hub/models--{repository.replace('/', '--')}/blobs/*.incomplete"))
    return found[0] if found and found[0].stat().st_size > 10_000 else None


def _downloads(server: Server) -> list[psutil.Process]:
    return children(psutil.Process(server.process.pid), "mlx_ollama.hub")


def _pulled(
    tmp_path: Path, hub: LocalHub, model: str, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    environment = hub.environment(tmp_path / "hf") | (env or {})
    return run_cli("pull", model, "--home", str(tmp_path / "home"), env=environment)
