"""MLX models as the reference stores its own: a blob for each tensor (wire-spec 5.5, 6.4)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_ollama.library import Library
from mlx_ollama.models.manifest import (
    JSON_TYPE,
    PARAMS_TYPE,
    SYSTEM_TYPE,
    TENSOR_TYPE,
    Layer,
    to_file,
)
from mlx_ollama.models.names import ModelName
from mlx_ollama.models.store import Content, Recipe, Store
from tests.compat.recordings import cases
from tests.support.server import Server, serving

RECORDED = {case["name"]: case for case in cases("models") if case["name"].startswith("mlx_")}
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "torch_dtype": "bfloat16",
    "hidden_size": 8,
    "intermediate_size": 16,
    "max_position_embeddings": 4096,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "num_key_value_heads": 1,
    "vocab_size": 16,
}


def _tensor(name: str, shape: list[int]) -> bytes:
    size = 2
    for length in shape:
        size *= length
    header = json.dumps({name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("tensors")
    store = Store(home / "models")
    parts: list[Layer | Content] = []
    for name, shape in (("model.embed_tokens.weight", [16, 8]), ("model.norm.weight", [8])):
        content = _tensor(name, shape)
        digest, _ = store.blobs.put(content)
        parts.append(Layer(TENSOR_TYPE, digest, len(content), name=name))
    content = json.dumps(CONFIG).encode()
    parts.append(Layer(JSON_TYPE, store.blobs.put(content)[0], len(content), name="config.json"))
    parts += [Content(SYSTEM_TYPE, b"be nice"), Content(PARAMS_TYPE, to_file({"temperature": 0.6}))]
    config = {
        "model_format": "safetensors",
        "model_family": "qwen3",
        "model_families": ["Qwen3ForCausalLM"],
        "renderer": "qwen3.5",
        "parser": "qwen3.5",
        "requires": "0.14.0",
        "capabilities": ["completion"],
    }
    store.write(ModelName.parse("mlxm"), Recipe(config, parts))
    with serving(home) as running:
        yield running


@pytest.mark.parametrize("name", ["mlx_show", "mlx_show_verbose", "mlx_create_from", "mlx_show2"])
def test_recorded(server: Server, name: str) -> None:
    request, expected = RECORDED[name]["request"], RECORDED[name]["response"]
    if name == "mlx_show2":
        server.client.post("/api/create", content=RECORDED["mlx_create_from"]["request"]["body"])
    answer = server.client.request(request["method"], request["path"], content=request["body"])
    assert answer.status_code == expected["status"]
    assert _comparable(answer.text) == _comparable(expected["body"])


def _comparable(body: str) -> list[Any]:
    lines = [json.loads(line) for line in body.splitlines()]
    for line in lines:
        line.pop("modified_at", None)
        # The digests of the tensors are those of another file.
        line["status"] = " ".join(line.get("status", "").split()[:3])
        # The reference takes families from its own notes on one path, and forgets them on the other.
        line.get("details", {}).pop("families", None)
        # Clients need it (clients.md, trap 12), and the reference leaves it out here.
        line.get("model_info", {}).pop("general.basename", None)
    return lines


def test_its_folder_has_every_part_by_name(server: Server) -> None:
    model = Library(Store(server.home / "models")).find(ModelName.parse("mlxm"))
    assert model is not None
    assert model.weights is not None
    assert sorted(model.weights.parts) == ["config.json", "model-00000.safetensors", "model-00001.safetensors"]
    assert all(isinstance(path, Path) and path.is_file() for path in model.weights.parts.values())
