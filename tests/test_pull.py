"""Pulling from a registry that speaks Ollama's protocol: the recorded exchanges, and what may break."""

import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlx_ollama.errors import JobFailed
from mlx_ollama.models.blobs import Blobs
from mlx_ollama.models.manifest import CONFIG_TYPE, DIRECTORY_TYPE, JSON_TYPE, TENSOR_TYPE, Manifest, to_file
from mlx_ollama.models.names import ModelName
from mlx_ollama.models.registry import ATTEMPTS, SILENCE_SECONDS, Registry
from tests.compat.recordings import cases
from tests.support.registry import HUGE, LocalRegistry
from tests.support.server import Server, clean_environment, run_cli, serving, wait_until
from tests.support.syncs import Syncs
from tests.worker.gguf_files import TinyLlama, write_gguf

pytestmark = pytest.mark.xdist_group("pull")

RECORDED_HOST = "127.0.0.1:5055"
OF_A_MODEL = ("pull_ok", "pull_ok_again", "pull_ok_nostream", "show_pulled")
"""With a GGUF file that no engine could load; a complete tiny one stands in its place."""

RECORDED = [case for case in cases("models") if case["name"].startswith("pull_") and case["name"] not in OF_A_MODEL]
RECORDED_LAYERS = ("a1fa1a3c9016", "b507b9c2f6ca", "176fe27df8f8")
"""The beginnings of the digests of model, template and configuration."""


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", TinyLlama(layers=1)).read_bytes()


@pytest.fixture
def registry(gguf: bytes) -> Iterator[LocalRegistry]:
    with LocalRegistry(gguf).serving() as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("pull")) as running:
        yield running


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["name"])
def test_recorded(server: Server, registry: LocalRegistry, case: dict[str, object]) -> None:
    adapted = json.loads(json.dumps(case).replace(RECORDED_HOST, registry.host))
    answer = server.client.post(adapted["request"]["path"], content=adapted["request"]["body"])
    assert answer.status_code == adapted["response"]["status"]
    assert answer.headers["content-type"] == adapted["response"]["headers"]["Content-Type"]
    assert answer.text == adapted["response"]["body"]


def test_recorded_of_a_model(server: Server, registry: LocalRegistry) -> None:
    recorded = {case["name"]: case for case in cases("models")}
    for name in OF_A_MODEL:
        case = json.loads(json.dumps(recorded[name]).replace(RECORDED_HOST, registry.host))
        answer = server.client.post(case["request"]["path"], content=case["request"]["body"])
        assert answer.status_code == case["response"]["status"]
        assert answer.headers["content-type"] == case["response"]["headers"]["Content-Type"]
        wanted = [json.loads(line) for line in case["response"]["body"].splitlines()]
        # The reference converts nothing.
        found = [line for line in map(json.loads, answer.text.splitlines()) if line.get("status") != "converting model"]
        if name == "show_pulled":
            assert list(found[0]) == list(wanted[0])
            assert found[0]["template"] == wanted[0]["template"]
            assert found[0]["capabilities"] == wanted[0]["capabilities"]
            assert found[0]["details"] == {**wanted[0]["details"], **_of_the_file(found[0]["details"])}
            assert _lines(found[0]["modelfile"]) == _lines(wanted[0]["modelfile"])
        else:
            assert found == [_with_our_layers(line, registry) for line in wanted]
    # Where the reference sends it, this server says that it does not.
    push = json.loads(recorded["push_ok"]["request"]["body"].replace(RECORDED_HOST, registry.host))
    first, last = server.lines("/api/push", push)
    assert first == json.loads(recorded["push_ok"]["response"]["body"].splitlines()[0])
    assert last == {"error": "push is not supported by this server"}


def test_a_pulled_model_answers_and_a_second_pull_fetches_nothing(server: Server, registry: LocalRegistry) -> None:
    name = f"http://{registry.host}/ns/m"
    first = [line["status"] for line in server.lines("/api/pull", {"model": name, "insecure": True})]
    assert first[0] == "pulling manifest"
    assert first[-3:] == ["verifying sha256 digest", "writing manifest", "success"] or "converting model" in first
    answer = server.post(
        "/api/generate", {"model": f"{registry.host}/ns/m", "prompt": "The", "raw": True, "stream": False}
    )
    assert answer.status_code == 200, answer.text
    asked = registry.requests.total()
    second = server.lines("/api/pull", {"model": name, "insecure": True})
    assert registry.requests.total() == asked + 1
    pulled = [line for line in second if line["status"].startswith("pulling ") and "digest" in line]
    layers = (*registry.manifest.layers, registry.manifest.config)
    assert [line["digest"] for line in pulled] == [layer.digest for layer in layers]
    assert all(line["completed"] == line["total"] for line in pulled)
    assert [line["status"] for line in second][-3:] == ["verifying sha256 digest", "writing manifest", "success"]


def test_a_model_that_is_to_be_built_on_is_pulled(server: Server, registry: LocalRegistry) -> None:
    missing = {"model": "zz", "from": f"http://{registry.host}/ns/none"}
    assert server.lines("/api/create", missing) == [
        {"status": "pulling manifest"},
        {
            "error": f'pull model manifest: Get "https://{registry.host}/v2/ns/none/manifests/latest": '
            "tls: first record does not look like a TLS handshake"
        },
    ]


def test_nobody_there(server: Server) -> None:
    lines = server.lines("/api/pull", {"model": "http://127.0.0.1:9/ns/m", "insecure": True})
    assert lines[-1] == {
        "error": 'pull model manifest: Get "http://127.0.0.1:9/v2/ns/m/manifests/latest": '
        "dial tcp 127.0.0.1:9: connect: connection refused"
    }


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("huge", "the registry's answer has more than 4194304 bytes"),
        ("hugeerr", "the registry's answer has more than 4194304 bytes"),
        ("hugemove", "the registry's answer has more than 4194304 bytes"),
        ("packed", "the registry's answer is encoded as gzip, which nobody asked for"),
    ],
)
def test_more_than_a_manifest_can_be_is_not_read(
    server: Server, registry: LocalRegistry, model: str, words: str
) -> None:
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    lines = server.lines("/api/pull", {"model": f"http://{registry.host}/ns/{model}", "insecure": True})
    assert lines[-1] == {"error": f"pull model manifest: {words}"}
    assert process.memory_info().rss - before < 48 << 20
    assert registry.requests.total() == 1
    assert registry.encodings == {"identity"}


def test_the_error_of_a_blob_is_not_read_beyond_what_can_be_told(tmp_path: Path, registry: LocalRegistry) -> None:
    registry.statuses, registry.error = [500] * ATTEMPTS, HUGE
    with (
        Registry(_name(registry), insecure=True, sleep=lambda _: None) as client,
        pytest.raises(JobFailed, match="max retries exceeded: the registry's answer has more than 4194304 bytes"),
    ):
        list(client.fetch(registry.manifest.layers[0], Blobs(tmp_path)))


def test_a_registry_that_sends_for_ever_elsewhere(server: Server, registry: LocalRegistry) -> None:
    name = f"http://{registry.host}/ns/circle"
    lines = server.lines("/api/pull", {"model": name, "insecure": True})
    where = f"http://{registry.host}/v2/ns/circle/manifests/latest"
    assert lines[-1] == {"error": f'pull model manifest: Get "{where}": Exceeded maximum allowed redirects.'}


def test_what_breaks_off_is_taken_up_where_it_stopped(tmp_path: Path, registry: LocalRegistry) -> None:
    layer = registry.manifest.layers[0]
    registry.breaks = [1000, 500]
    pauses: list[float] = []
    with Registry(_name(registry), insecure=True, sleep=pauses.append) as client:
        list(client.fetch(layer, Blobs(tmp_path)))
    assert Blobs(tmp_path).read(layer.digest) == registry.blobs[layer.digest]
    assert registry.ranges == [f"bytes=1000-{layer.size - 1}", f"bytes=1500-{layer.size - 1}"]
    assert pauses == [0.5] * 4, "a second after each"
    assert [path.name for path in tmp_path.iterdir()] == [layer.digest.replace(":", "-")]


def test_a_blob_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = registry.manifest.layers[0]
    blob = Blobs(tmp_path).path(layer.digest)
    syncs = Syncs(blob, monkeypatch)
    with Registry(_name(registry), insecure=True) as client:
        list(client.fetch(layer, Blobs(tmp_path)))
    assert syncs.is_before(blob)
    assert syncs.is_after(tmp_path)


def test_what_never_arrives_is_given_up_and_kept_for_the_next_time(tmp_path: Path, registry: LocalRegistry) -> None:
    layer = registry.manifest.layers[0]
    registry.breaks = [1000] + [0] * (2 * ATTEMPTS)
    pauses: list[float] = []
    with (
        Registry(_name(registry), insecure=True, sleep=pauses.append) as client,
        pytest.raises(JobFailed, match="max retries exceeded"),
    ):
        list(client.fetch(layer, Blobs(tmp_path)))
    twice = [2**attempt for attempt in range(1, ATTEMPTS)]
    assert len(pauses) == twice[0] + sum(twice), "what brought a byte does not count"
    registry.breaks, registry.ranges = [], []
    with Registry(_name(registry), insecure=True) as client:
        list(client.fetch(layer, Blobs(tmp_path)))
    assert registry.ranges == [f"bytes=1000-{layer.size - 1}"]


def _of_tensors(registry: LocalRegistry, name: str) -> None:
    """Have it serve a model of single files, one of which has this name."""
    config, weights = (registry._layer(kind, content) for kind, content in ((JSON_TYPE, b"{}"), (TENSOR_TYPE, b"x")))
    layers = (replace(config, name=name), replace(weights, name="model.safetensors"))
    registry.manifest = Manifest(registry.manifest.config, layers)


@pytest.mark.parametrize("name", ["../../../outside/x.py", "a/../../../../outside/x.py", "{outside}/x.py"])
def test_a_file_that_would_lie_elsewhere_is_refused(tmp_path: Path, registry: LocalRegistry, name: str) -> None:
    (outside := tmp_path / "outside").mkdir()
    _of_tensors(registry, name.format(outside=outside))
    pulled = _pull_by_command(tmp_path / "home", registry)
    assert pulled.returncode == 1
    assert "is not the name of a model's file" in pulled.stderr
    assert not list(outside.iterdir())


def test_a_folder_of_this_machine_is_nobody_elses_word(tmp_path: Path, registry: LocalRegistry) -> None:
    """It would be read, and removed with the model."""
    home = tmp_path / "home"
    path = to_file({"path": f"{home}/converted/..", "size": 1})
    layers = (*registry.manifest.layers, registry._layer(DIRECTORY_TYPE, path))
    registry.manifest = replace(registry.manifest, layers=layers)
    pulled = _pull_by_command(home, registry)
    assert pulled.returncode == 1
    assert "has no weights that could be used here" in pulled.stderr


@pytest.mark.parametrize("digest", ["sha256:../../../../outside/x", "../../x", ""])
def test_what_is_no_digest_names_no_blob(tmp_path: Path, registry: LocalRegistry, digest: str) -> None:
    layers = (replace(registry.manifest.layers[0], digest=digest), *registry.manifest.layers[1:])
    registry.manifest = replace(registry.manifest, layers=layers)
    pulled = _pull_by_command(tmp_path, registry)
    assert pulled.returncode == 1
    assert "is no digest" in pulled.stderr


def test_a_form_of_weights_is_a_word(tmp_path: Path, registry: LocalRegistry) -> None:
    config = json.loads(registry.blobs[registry.manifest.config.digest]) | {"quantize": "/../../../outside"}
    registry.manifest = replace(registry.manifest, config=registry._layer(CONFIG_TYPE, to_file(config)))
    pulled = _pull_by_command(tmp_path, registry)
    assert pulled.returncode == 1
    assert "'/../../../outside' is no form of weights" in pulled.stderr
    assert "ns/m" not in run_cli("list", "--home", str(tmp_path)).stdout
    assert not [path for path in (tmp_path / "models/manifests").rglob("*") if path.is_file()]


def _pull_by_command(home: Path, registry: LocalRegistry) -> "subprocess.CompletedProcess[str]":
    return run_cli("pull", "--insecure", f"http://{registry.host}/ns/m", "--home", str(home))


def test_a_blob_that_is_another(tmp_path: Path, registry: LocalRegistry) -> None:
    layer = registry.manifest.layers[0]
    registry.blobs[layer.digest] = bytes(layer.size)
    with (
        Registry(_name(registry), insecure=True) as client,
        pytest.raises(JobFailed, match="digest mismatch, file must be downloaded again: want sha256:"),
    ):
        list(client.fetch(layer, Blobs(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_a_name_without_a_row_is_a_gguf_file_of_the_registry(tmp_path: Path, registry: LocalRegistry) -> None:
    home, env = ("--home", str(tmp_path)), {"MLX_API_REGISTRY": f"http://{registry.host}"}
    done = run_cli("pull", "somebody", *home, env=env)
    assert done.returncode == 0, done.stderr
    assert registry.requests["/v2/library/somebody/manifests/latest"] == 1
    assert "somebody:latest" in run_cli("list", *home).stdout


def test_blobs_of_another_host(tmp_path: Path, registry: LocalRegistry) -> None:
    layer = registry.manifest.layers[0]
    registry.redirects, registry.breaks = True, [1000]
    with Registry(_name(registry), insecure=True, sleep=lambda _: None) as client:
        list(client.fetch(layer, Blobs(tmp_path)))
    assert Blobs(tmp_path).read(layer.digest) == registry.blobs[layer.digest]
    assert registry.ranges == [f"bytes=1000-{layer.size - 1}"]


def test_progress_never_goes_backwards(
    tmp_path: Path, registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_ollama.models.registry.TICK_SECONDS", 0.0)
    layer = registry.manifest.layers[0]
    registry.resumes, registry.breaks = False, [layer.size // 2]
    with Registry(_name(registry), insecure=True, sleep=lambda _: None) as client:
        counts = [told.completed for told in client.fetch(layer, Blobs(tmp_path))]
    assert counts == sorted(counts)
    assert counts[-1] == layer.size
    assert Blobs(tmp_path).read(layer.digest) == registry.blobs[layer.digest]


def test_a_stall(tmp_path: Path, registry: LocalRegistry) -> None:
    layer = registry.manifest.layers[0]
    registry.stalls, registry.breaks = True, [1000]
    with Registry(_name(registry), insecure=True, sleep=lambda _: None, silence=0.3) as client:
        list(client.fetch(layer, Blobs(tmp_path)))
    assert registry.ranges == [f"bytes=1000-{layer.size - 1}"]


def test_a_registry_that_fails_for_a_while(tmp_path: Path, registry: LocalRegistry) -> None:
    layer = registry.manifest.layers[0]
    registry.statuses = [500, 502]
    with Registry(_name(registry), insecure=True, sleep=lambda _: None) as client:
        list(client.fetch(layer, Blobs(tmp_path)))
    assert Blobs(tmp_path).has(layer.digest)


@pytest.mark.parametrize("more", [-100, 100])
def test_a_blob_of_another_size(tmp_path: Path, registry: LocalRegistry, more: int) -> None:
    layer = registry.manifest.layers[0]
    registry.blobs[layer.digest] = (registry.blobs[layer.digest] + b"x" * 100)[: layer.size + more]
    with (
        Registry(_name(registry), insecure=True, sleep=lambda _: None) as client,
        pytest.raises(JobFailed, match="max retries exceeded" if more < 0 else "digest mismatch"),
    ):
        list(client.fetch(layer, Blobs(tmp_path)))
    assert not Blobs(tmp_path).has(layer.digest)


def test_a_full_disk(tmp_path: Path, registry: LocalRegistry) -> None:
    body = {"model": f"http://{registry.host}/ns/m", "insecure": True}
    with serving(tmp_path) as server:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (8 * 1024, hard))
        assert "cannot be stored: " in server.lines("/api/pull", body)[-1]["error"]
        assert server.client.get("/api/tags").json()["models"] == []
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert server.lines("/api/pull", body)[-1] == {"status": "success"}
    assert registry.ranges


def test_a_killed_pull_goes_on_where_it_was(tmp_path: Path, registry: LocalRegistry) -> None:
    layer = registry.manifest.layers[0]
    registry.stalls, registry.breaks = True, [layer.size // 2]
    name = f"http://{registry.host}/ns/m"
    command = [sys.executable, "-m", "mlx_ollama", "pull", "--insecure", name, "--home", str(tmp_path)]
    process = subprocess.Popen(command, env=clean_environment(), stderr=subprocess.DEVNULL)
    partial = Blobs(tmp_path / "models" / "blobs").path(f"{layer.digest}-partial")
    wait_until(lambda: partial.is_file() and partial.stat().st_size > 1000, "a part of the blob")
    process.kill()
    process.wait()
    assert not (tmp_path / "models" / "manifests").exists()
    done = run_cli("pull", "--insecure", name, "--home", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert len(registry.ranges) == 1


def test_a_pull_that_its_client_leaves_is_taken_up(tmp_path: Path, registry: LocalRegistry) -> None:
    with serving(tmp_path) as server:
        with _stalled(server, registry):
            pass
        began = time.monotonic()
        assert server.lines("/api/pull", _body(registry))[-1] == {"status": "success"}
        assert time.monotonic() - began < SILENCE_SECONDS / 2, "nobody waits for the silent connection of the first"
    assert len(registry.ranges) == 1
    assert not [*(tmp_path / "models" / "blobs").glob("*-partial")]


def test_a_stalled_pull_does_not_keep_a_server_that_is_told_to_stop(tmp_path: Path, registry: LocalRegistry) -> None:
    with serving(tmp_path, env={"MLX_API_DRAIN": "0.3"}) as server, _stalled(server, registry):
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < SILENCE_SECONDS / 2


def test_many_pulls_that_wait_keep_nobody_else_waiting(tmp_path: Path) -> None:
    pulls = 12
    with (
        serving(tmp_path, env={"MLX_API_DRAIN": "0.3"}) as server,
        # Whoever connects is heard, and never answered.
        socket.create_server(("127.0.0.1", 0), backlog=2 * pulls) as silent,
        ExitStack() as stack,
    ):
        body = {"model": f"http://127.0.0.1:{silent.getsockname()[1]}/ns/m", "insecure": True}

        def begin(_: int) -> Iterator[str]:
            return stack.enter_context(server.client.stream("POST", "/api/pull", json=body)).iter_lines()

        with ThreadPoolExecutor(pulls) as clients:
            answers = list(clients.map(begin, range(pulls)))
        assert [json.loads(next(lines)) for lines in answers] == [{"status": "pulling manifest"}] * pulls
        for path in ("/health", "/api/tags"):
            assert server.client.get(path, timeout=5).status_code == 200
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < SILENCE_SECONDS / 2


def test_a_second_pull_tells_how_far_the_first_is_and_goes_on_with_it(tmp_path: Path, registry: LocalRegistry) -> None:
    size = registry.manifest.layers[0].size
    told: list[dict[str, Any]] = []
    with serving(tmp_path) as server:
        with _stalled(server, registry), server.client.stream("POST", "/api/pull", json=_body(registry)) as second:
            lines = map(json.loads, second.iter_lines())
            told.append(next(line for line in lines if line.get("completed")))
        with server.client.stream("POST", "/api/pull", json=_body(registry)) as second:
            told += map(json.loads, second.iter_lines())
    assert 1000 < told[0]["completed"] <= size // 2
    assert told[-1] == {"status": "success"}
    assert len(registry.ranges) == 1


def _body(registry: LocalRegistry) -> dict[str, Any]:
    return {"model": f"http://{registry.host}/ns/m", "insecure": True}


@contextmanager
def _stalled(server: Server, registry: LocalRegistry) -> Iterator[None]:
    """A pull that has half of a blob, and gets nothing more while its client waits."""
    layer = registry.manifest.layers[0]
    registry.stalls, registry.breaks = True, [layer.size // 2]
    partial = Blobs(server.home / "models" / "blobs").path(f"{layer.digest}-partial")
    with server.client.stream("POST", "/api/pull", json=_body(registry)) as response:
        lines = response.iter_lines()
        assert json.loads(next(lines)) == {"status": "pulling manifest"}
        wait_until(lambda: partial.is_file() and partial.stat().st_size > 1000, "a part of the blob")
        assert not (server.home / "models" / "manifests").exists()
        yield
    registry.stalls, registry.breaks = False, []


def _with_our_layers(line: dict[str, Any], registry: LocalRegistry) -> dict[str, Any]:
    if "digest" not in line:
        return line
    layers = (*registry.manifest.layers, registry.manifest.config)
    layer = layers[RECORDED_LAYERS.index(line["digest"][7:19])]
    return {"status": f"pulling {layer.digest[7:19]}", "digest": layer.digest} | dict.fromkeys(
        ("total", "completed"), layer.size
    )


def _of_the_file(details: dict[str, Any]) -> dict[str, Any]:
    return {key: details[key] for key in ("parameter_size",)}


def _lines(modelfile: str) -> list[str]:
    """Without where the file lies."""
    return [line for line in modelfile.splitlines() if not line.startswith("FROM ")]


def _name(registry: LocalRegistry) -> ModelName:
    return ModelName.parse(f"{registry.host}/ns/m")
