"""The recorded exchanges of the store, case by case, against one live server in the recordings' order.

The recordings were made with a GGUF file of 1,056 bytes that no engine could load. This server makes what it is to
load when a model is created, so a complete tiny model stands in its place, and what follows from that is adapted.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.compat.recordings import cases
from tests.support.server import Server, serving
from tests.worker.gguf_files import TinyLlama, write_gguf

RECORDED_TINY = "5c975b3a3e3212b96dd9d713bf7e50b70476c4909fa43c665f4d73532ff96c20"
RECORDED_BYTES = (1056, 528)

KEPT = {
    "create_chatml_autodetect": "a chat template that comes with the weights is used, none like it put in its place",
    "show_chatml": "as create_chatml_autodetect",
    "blob_post_chatml": "as create_chatml_autodetect",
    "blob_post_emb": "a GGUF file of BERT cannot be used here, and create says so",
    "create_emb": "as blob_post_emb",
    "show_emb": "as blob_post_emb",
    "generate_emb_unsupported": "as blob_post_emb; tests/test_embeddings.py has these refusals",
    "chat_emb_unsupported": "as blob_post_emb",
    "v1chat_emb_unsupported": "as blob_post_emb",
    "tags_many": "lists the two above; its entries are compared in test_listing",
    "v1_models_many": "as tags_many",
    "create_quantize_q4km": "the weights are quantised when the model is made; see test_quantised",
}
"""Differences that we keep on purpose, with the reason."""

REGISTRY = ("pull_", "push_", "show_pulled", "create_from_missing")
"""Cases that need the registry they were recorded with."""

HAND_WRITTEN = ("mlx_",)
"""Cases on a manifest that was written by hand; tests/models/test_tensors.py writes it."""

VOLATILE = {"modified_at", "created_at", "created", "size", "digest", "version"}
OF_THE_FILE = {"model_info", "tensors", "parameter_size", "context_length", "embedding_length"}
CASES = [
    case
    for case in cases("models")
    if case["name"] not in KEPT and not case["name"].startswith((*REGISTRY, *HAND_WRITTEN))
]


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", TinyLlama(layers=1))
    return path.read_bytes()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.mark.xdist_group("models")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_recorded(store: Server, tiny_gguf: bytes, case: dict[str, Any]) -> None:
    adapted = _adapted(case, tiny_gguf, store)
    request, expected = adapted["request"], adapted["response"]
    answer = store.client.request(
        request["method"], request["path"], headers=request["headers"], content=_content(case, request, tiny_gguf)
    )
    assert answer.status_code == expected["status"], answer.text
    assert answer.headers.get("content-type") == expected["headers"].get("Content-Type")
    assert _body(answer.text, case["name"]) == _body(expected.get("body") or "", case["name"])


@pytest.mark.xdist_group("models")
def test_listing(store: Server) -> None:
    recorded = next(case for case in cases("models") if case["name"] == "tags_many")
    wanted = {model["name"]: model for model in json.loads(recorded["response"]["body"])["models"]}
    for model in store.client.get("/api/tags").json()["models"]:
        entry = wanted.get(model["name"])
        if entry is not None:
            assert list(model) == list(entry)
            assert _without(model, VOLATILE | OF_THE_FILE) == _without(entry, VOLATILE | OF_THE_FILE)
    ids = [model["id"] for model in store.client.get("/v1/models").json()["data"]]
    assert {"tiny:latest", "Full:V1", "rem:latest", "q3c:latest"} <= set(ids)


@pytest.mark.xdist_group("models")
def test_quantised(store: Server, tiny_gguf: bytes) -> None:
    digest = f"sha256:{hashlib.sha256(tiny_gguf).hexdigest()}"
    store.client.post(f"/api/blobs/{digest}", content=tiny_gguf)
    lines = store.lines("/api/create", {"model": "q4", "files": {"tiny.gguf": digest}, "quantize": "q4_K_M"})
    assert [line["status"] for line in lines if "layer" not in line["status"]][-3:] == [
        "quantizing model",
        "writing manifest",
        "success",
    ]
    assert store.post("/api/show", {"model": "q4"}).json()["details"]["quantization_level"] == "Q4_K_M"
    answer = store.post("/api/generate", {"model": "q4", "prompt": "The", "stream": False, "raw": True})
    assert answer.json()["done"] is True, answer.text


def _adapted(case: dict[str, Any], gguf: bytes, server: Server) -> dict[str, Any]:
    text = json.dumps({"request": case["request"], "response": case["response"]})
    text = text.replace(RECORDED_TINY, hashlib.sha256(gguf).hexdigest())
    adapted: dict[str, Any] = json.loads(text.replace("$OLLAMA_MODELS", str(server.home / "models")))
    return adapted


def _content(case: dict[str, Any], request: dict[str, Any], gguf: bytes) -> bytes:
    if "body_base64" in request:
        return gguf if RECORDED_TINY in case["request"]["path"] else base64.b64decode(request["body_base64"])
    return (request.get("body") or "").encode()


def _body(text: str, name: str) -> Any:
    """What two bodies must have in common."""
    try:
        lines = [json.loads(line) for line in text.splitlines()]
    except ValueError:
        return text
    # How many lines tell that the file was looked through goes with its tensors, and the reference converts nothing.
    lines = [line for line in lines if not _is_counted(line)]
    return [_without(line, VOLATILE | OF_THE_FILE) for line in lines]


def _is_counted(line: Any) -> bool:
    return isinstance(line, dict) and line.get("status") in ("validating GGUF model", "converting model")


def _without(value: Any, names: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: _in_order(key, _without(member, names)) for key, member in value.items() if key not in names}
    return [_without(member, names) for member in value] if isinstance(value, list) else value


def _in_order(key: str, value: Any) -> Any:
    """Parameters come in any order (wire-spec 5.5)."""
    if not isinstance(value, str) or key not in ("parameters", "modelfile"):
        return value
    return sorted(re.split(r"\n(?=PARAMETER |LICENSE |MESSAGE |TEMPLATE )" if key == "modelfile" else r"\n", value))
