"""Pulling from a registry that speaks Ollama's protocol: the recorded exchanges, and what may break."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_ollama.errors import JobFailed
from mlx_ollama.models.blobs import Blobs
from mlx_ollama.models.names import ModelName
from mlx_ollama.models.registry import ATTEMPTS, Registry
from tests.compat.recordings import cases
from tests.support.registry import LocalRegistry
from tests.support.server import Server, serving
from tests.worker.gguf_files import TinyLlama, write_gguf

RECORDED_HOST = "127.0.0.1:5055"
RECORDED = [
    case
    for case in cases("models")
    if case["name"].startswith("pull_") and case["name"] not in ("pull_ok", "pull_ok_again")
]


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
    assert [line["digest"] for line in pulled] == [registry.manifest.layers[0].digest, registry.manifest.config.digest]
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


def test_what_breaks_off_is_taken_up_where_it_stopped(tmp_path: Path, registry: LocalRegistry) -> None:
    layer = registry.manifest.layers[0]
    registry.breaks = [1000, 500]
    pauses: list[float] = []
    with Registry(_name(registry), insecure=True, sleep=pauses.append) as client:
        list(client.fetch(layer, Blobs(tmp_path)))
    assert Blobs(tmp_path).read(layer.digest) == registry.blobs[layer.digest]
    assert registry.ranges == [f"bytes=1000-{layer.size - 1}", f"bytes=1500-{layer.size - 1}"]
    assert pauses == [1.0, 1.0]
    assert [path.name for path in tmp_path.iterdir()] == [layer.digest.replace(":", "-")]


def test_what_never_arrives_is_given_up_and_kept_for_the_next_time(tmp_path: Path, registry: LocalRegistry) -> None:
    layer = registry.manifest.layers[0]
    registry.breaks = [1000] + [0] * (2 * ATTEMPTS)
    pauses: list[float] = []
    with (
        Registry(_name(registry), insecure=True, sleep=pauses.append) as client,
        pytest.raises(JobFailed, match="max retries exceeded"),
    ):
        list(client.fetch(layer, Blobs(tmp_path)))
    assert pauses == sorted(pauses)
    registry.breaks, registry.ranges = [], []
    with Registry(_name(registry), insecure=True) as client:
        list(client.fetch(layer, Blobs(tmp_path)))
    assert registry.ranges == [f"bytes=1000-{layer.size - 1}"]


def test_a_blob_that_is_another(tmp_path: Path, registry: LocalRegistry) -> None:
    layer = registry.manifest.layers[0]
    registry.blobs[layer.digest] = bytes(layer.size)
    with (
        Registry(_name(registry), insecure=True) as client,
        pytest.raises(JobFailed, match="digest mismatch, file must be downloaded again: want sha256:"),
    ):
        list(client.fetch(layer, Blobs(tmp_path)))
    assert not list(tmp_path.iterdir())


def _name(registry: LocalRegistry) -> ModelName:
    return ModelName.parse(f"{registry.host}/ns/m")
