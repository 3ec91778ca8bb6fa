"""Embedding over HTTP with tiny models: an encoder, a decoder, and one that only generates."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ollama
import psutil
import pytest

from tests.support.cli import import_model
from tests.support.embedders import write_tiny_decoder, write_tiny_encoder
from tests.support.libraries import libraries
from tests.support.server import Server, run_cli, serving, wait_until
from tests.worker.encoder_ggufs import write_encoder_gguf

pytestmark = pytest.mark.xdist_group("embeddings")

ENDPOINTS = ("/api/embed", "/api/embeddings")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_directory: Path) -> Iterator[Server]:
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("models")
    made = {
        "Bert": (write_tiny_encoder(folder / "bert", longest=20), ()),
        "qwen": (write_tiny_decoder(folder / "qwen"), ("--parameter", "num_ctx=16")),
        "tiny": (tiny_directory, ()),
    }
    for name, (directory, rest) in made.items():
        import_model(home, name, directory, *rest)
    for kind in ("bert", "nomic_bert"):
        file = write_encoder_gguf(folder / f"{kind}.gguf", kind, "F16")
        (folder / "Modelfile").write_text(f"FROM {file}")
        created = run_cli("create", f"{kind}-gguf", "-f", str(folder / "Modelfile"), "--home", str(home))
        assert created.returncode == 0, created.stderr
    with serving(home) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[ollama.Client]:
    client = ollama.Client(host=server.url, trust_env=False)
    yield client
    client._client.close()


def test_ollamas_form_gives_the_same_vectors(client: ollama.Client) -> None:
    texts = ["ba be", "", "zu zo ZI, qqq", "ba be"]
    theirs, ours = (client.embed(model, texts).embeddings for model in ("Bert", "bert-gguf"))
    assert np.abs(np.array(ours) - np.array(theirs)).max() < 5e-3
    assert client.show("bert-gguf").capabilities == ["embedding"]
    details = client.show("bert-gguf").details
    assert details
    assert details.family == "bert"


@pytest.mark.parametrize("model", ["Bert", "qwen", "bert-gguf", "nomic_bert-gguf"])
def test_the_genuine_client(client: ollama.Client, model: str) -> None:
    texts = ["ba be", "", "zu zo zi", "ba be"]
    answer = client.embed(model, texts)
    assert len(answer.embeddings) == 4
    assert answer.embeddings[0] == pytest.approx(answer.embeddings[3], abs=1e-6)
    assert answer.embeddings[0] != pytest.approx(answer.embeddings[2], abs=1e-2)
    assert [sum(number**2 for number in vector) for vector in answer.embeddings] == pytest.approx([1] * 4, abs=1e-5)
    assert answer.model == model
    alone = [client.embed(model, [text]).prompt_eval_count or 0 for text in texts]
    assert answer.prompt_eval_count == sum(alone)
    assert (answer.total_duration or 0) >= (answer.load_duration or 0) > 0
    short = client.embed(model, texts[0], dimensions=3).embeddings[0]
    assert len(short) == 3
    assert sum(number**2 for number in short) == pytest.approx(1)
    legacy = client.embeddings(model, texts[0]).embedding
    length = sum(number**2 for number in legacy) ** 0.5
    assert length > 1.5, "not normalised"
    assert [number / length for number in legacy] == pytest.approx(answer.embeddings[0], abs=1e-6)


def test_the_body(server: Server) -> None:
    answer = server.post("/api/embed", {"model": "bert", "input": "ba", "dimensions": 2})
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert list(answer.json()) == ["model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"]
    assert answer.json()["model"] == "bert"
    numbers = answer.text.partition("[[")[2].partition("]]")[0].split(",")
    assert max(len(number.lstrip("-0.")) for number in numbers) <= 9, "float32 needs no more digits"


@pytest.mark.parametrize("unset", [{}, {"input": None}, {"input": ""}, {"input": []}])
@pytest.mark.parametrize("model", ["Bert", "tiny"])
def test_nothing_to_embed_loads(server: Server, model: str, unset: dict[str, Any]) -> None:
    answer = server.post("/api/embed", {"model": model, "keep_alive": "10m", **unset})
    assert (answer.status_code, answer.text) == (200, f'{{"model":"{model}","embeddings":[]}}')
    loaded = server.client.get("/api/ps").json()["models"]
    assert f"{model}:latest" in {entry["name"] for entry in loaded}
    assert server.post("/api/embeddings", {"model": model}).text == '{"embedding":[]}'


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/api/embed", {"model": "absent", "input": 3}, 400, "invalid input type"),
        ("/api/embed", {"model": "absent", "input": ["a", 3]}, 400, "invalid input type"),
        ("/api/embed", {"model": "absent", "input": "a"}, 404, 'model "absent" not found, try pulling it first'),
        ("/api/embed", {"input": "a"}, 404, "model '' not found"),
        ("/api/embed", {"model": "bad name!"}, 400, "invalid model name"),
        ("/api/embed", {"model": "Bert:cloud"}, 403, "ollama cloud is disabled: remote model is unavailable"),
        (
            "/api/embed",
            {"model": "Bert", "input": "a", "options": {"num_ctx": "x"}},
            500,
            'option "num_ctx" must be of type integer',
        ),
        (
            "/api/embed",
            {"model": "Bert", "input": "ba " * 19, "truncate": False},
            400,
            "the input length exceeds the context length",
        ),
        (
            "/api/embed",
            {"model": "qwen", "input": "ba " * 60, "truncate": False},
            400,
            "the input length exceeds the context length",
        ),
        (
            "/api/embeddings",
            {"model": "Bert", "prompt": "ba " * 19},
            500,
            "the input length exceeds the context length",
        ),
        ("/api/embeddings", {"prompt": "a"}, 400, "model is required"),
        ("/api/embeddings", {"model": "absent", "prompt": "a"}, 404, 'model "absent" not found, try pulling it first'),
        ("/api/embeddings", {"model": "bert", "prompt": "a"}, 404, 'model "bert" not found, try pulling it first'),
        (
            "/api/chat",
            {"model": "bert", "messages": [{"role": "user", "content": "x"}]},
            400,
            '"bert" does not support chat',
        ),
        ("/api/chat", {"model": "Bert"}, 400, '"Bert" does not support chat'),
        ("/api/generate", {"model": "qwen", "prompt": "x"}, 400, '"qwen" does not support generate'),
    ],
)
def test_refusals(server: Server, path: str, body: dict[str, Any], status: int, message: str) -> None:
    refused = server.post(path, body)
    assert (refused.status_code, refused.json()) == (status, {"error": message})


def test_an_answer_has_a_largest_size(server: Server) -> None:
    refused = server.post("/api/embed", {"model": "Bert", "input": [""] * ((1 << 20) + 1)})
    words = "1048577 inputs: 1048576 are the most at once for vectors of 32 numbers"
    assert (refused.status_code, refused.json()) == (400, {"error": words})


def test_options_without_effect_are_named(server: Server) -> None:
    body = {"model": "Bert", "input": "ba", "options": {"num_ctx": 9, "num_gpu": 1, "tfs_z": 2}}
    assert server.post("/api/embed", body).headers["x-mlx-ollama-ignored"] == "num_gpu, tfs_z"
    given = {"model": "bert", "input": "ba", "user": "me", "truncate": True}
    assert server.post("/v1/embeddings", given).headers["x-mlx-ollama-ignored"] == "truncate"


def test_models_that_generate_have_no_embeddings(server: Server) -> None:
    for path, status in zip(ENDPOINTS, (501, 500), strict=True):
        refused = server.post(path, {"model": "tiny", "input": "a", "prompt": "a"})
        assert refused.status_code == status
        assert '"tiny" does not support embeddings' in refused.json()["error"]


def test_long_texts_lose_their_ends(server: Server) -> None:
    def embed(model: str, words: int, **more: Any) -> tuple[list[float], int]:
        answer = server.post("/api/embed", {"model": model, "input": "ba " * words + "x", **more}).json()
        return answer["embeddings"][0], answer["prompt_eval_count"]

    cut, counted = embed("Bert", 500)
    assert counted == 20, "what sentence_bert_config.json says"
    assert cut == pytest.approx(embed("Bert", 18)[0], abs=1e-5)
    assert embed("Bert", 500, options={"num_ctx": 8})[1] == 8
    assert embed("Bert", 500, options={"num_ctx": 4000})[1] == 20
    assert embed("qwen", 500)[1] == 16, "the Modelfile's num_ctx"
    assert embed("qwen", 500, options={"num_ctx": 4000})[1] == 256, "what the model was trained for"


def test_lists_say_what_the_models_are(server: Server) -> None:
    listed = {entry["name"]: entry for entry in server.client.get("/api/tags").json()["models"]}
    capabilities = {name: entry["capabilities"] for name, entry in listed.items()}
    assert capabilities == {
        "Bert:latest": ["embedding"],
        "bert-gguf:latest": ["embedding"],
        "nomic_bert-gguf:latest": ["embedding"],
        "qwen:latest": ["embedding"],
        "tiny:latest": ["completion"],
    }
    details = listed["Bert:latest"]["details"]
    assert (details["family"], details["context_length"], details["embedding_length"]) == ("bert", 64, 32)
    shown = server.post("/api/show", {"model": "bert"}).json()
    assert shown["capabilities"] == ["embedding"]
    assert shown["model_info"]["bert.block_count"] == 2
    assert shown["model_info"]["general.parameter_count"] > 10_000


def test_many_clients_at_once(server: Server) -> None:
    async def ask(client: httpx.AsyncClient, text: str) -> list[float]:
        answer = await client.post("/api/embed", json={"model": "bert", "input": text})
        return [float(number) for number in answer.json()["embeddings"][0]]

    async def all_of_them(texts: list[str]) -> list[list[float]]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
            return await asyncio.gather(*(ask(client, text) for text in texts))

    texts = [f"b{vowel} " * count for vowel in "aeiou" for count in range(1, 9)]
    together = asyncio.run(all_of_them(texts))
    batch = server.post("/api/embed", {"model": "bert", "input": texts}).json()["embeddings"]
    for one, other in zip(together, batch, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_a_client_who_leaves_ends_the_work(server: Server) -> None:
    body = {"model": "qwen", "input": ["ba " * 12] * 60_000, "keep_alive": "10m"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/api/embed", json=body, timeout=1.5, trust_env=False)

    def quick() -> bool:
        answer = server.post("/api/embed", {"model": "qwen", "input": "ba"})
        return answer.status_code == 200 and answer.elapsed.total_seconds() < 0.5

    wait_until(quick, "a quick answer")

    def idle() -> bool:
        return all(worker.cpu_percent(0.3) < 20 for worker in server.workers())

    wait_until(idle, "rest", 10)


def _loaded(server: Server) -> list[str]:
    return [model["name"] for model in server.client.get("/api/ps").json()["models"]]


def test_an_encoders_worker_is_light(server: Server) -> None:
    server.post("/api/embed", {"model": "Bert", "input": "ba", "keep_alive": 0})
    wait_until(lambda: "Bert:latest" not in _loaded(server), "its end")
    others = {worker.pid for worker in server.workers()}
    server.post("/api/embed", {"model": "Bert", "input": "ba"})
    gateways = libraries(psutil.Process(server.process.pid))
    assert not [word for word in ("mlx", "numpy", "tokenizers") if word in gateways]
    (worker,) = [worker for worker in server.workers() if worker.pid not in others]
    workers = libraries(worker)
    assert "mlx" in workers
    assert "sentencepiece" not in workers, "transformers, and all that it brings, is for language models"


def test_a_worker_that_dies_is_an_answer(server: Server) -> None:
    server.post("/api/embed", {"model": "qwen", "input": "ba"})
    for worker in server.workers():
        worker.kill()
    answers = [server.post("/api/embed", {"model": "qwen", "input": "ba"}) for _ in range(20)]
    assert answers[-1].status_code == 200
    for answer in answers:
        assert answer.status_code == 200 or "the model worker" in answer.json()["error"]


def test_directories_that_cannot_be_loaded(server: Server, tmp_path: Path) -> None:
    directory = write_tiny_encoder(tmp_path / "broken")
    config = directory / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_act": "strange"}))
    import_model(server.home, "broken", directory)
    refused = server.post("/api/embed", {"model": "broken", "input": "ba"})
    assert (refused.status_code, refused.json()) == (500, {"error": "the activation strange is not supported"})
    (server.home / "models/manifests/registry.ollama.ai/library/broken/latest").unlink()
