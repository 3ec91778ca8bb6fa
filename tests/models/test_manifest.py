"""What the store writes, to the byte: the digests that a real Ollama listed for the same models."""

import base64
import json
from pathlib import Path

import pytest

from mlx_ollama.models.config import config_of
from mlx_ollama.models.manifest import LICENSE_TYPE, MODEL_TYPE, PARAMS_TYPE, SYSTEM_TYPE, Layer, to_file
from mlx_ollama.models.names import ModelName
from mlx_ollama.models.store import Content, Recipe, Store
from tests.compat.recordings import cases

RECORDED = {case["name"]: case for case in cases("models")}
LISTED = {model["name"]: model["digest"] for model in json.loads(RECORDED["tags_many"]["response"]["body"])["models"]}
LLAMA = config_of("gguf", "llama", ["llama"], "64", "F16")
TINY = "tiny:latest"


@pytest.mark.parametrize(
    ("name", "config", "parent", "contents"),
    [
        ("tiny:latest", {}, "", []),
        ("tiny4:latest", {}, TINY, []),
        ("tiny5:latest", {}, TINY, [Content(LICENSE_TYPE, b"MIT")]),
        ("tiny6:latest", {}, TINY, [Content(PARAMS_TYPE, to_file({"zzz": 1}))]),
        (
            "tiny3:latest",
            {},
            "tiny3:latest",
            [Content(SYSTEM_TYPE, b"again"), Content(PARAMS_TYPE, to_file({"temperature": 1}))],
        ),
        ("q35:latest", {"renderer": "qwen3.5", "parser": "qwen3.5"}, TINY, []),
        ("q3c:latest", {"renderer": "qwen3-coder", "parser": "qwen3-coder", "requires": "0.14.0"}, TINY, []),
    ],
)
def test_digests(tmp_path: Path, name: str, config: dict[str, str], parent: str, contents: list[Content]) -> None:
    store = Store(tmp_path / "models")
    tiny = base64.b64decode(RECORDED["blob_post_created"]["request"]["body_base64"])
    digest, _ = store.blobs.put(tiny)
    layers: list[Layer | Content] = [Layer(MODEL_TYPE, digest, len(tiny), parent), *contents]
    written = store.write(ModelName.parse(name), Recipe({**LLAMA, **config}, layers)).model
    assert written.digest == LISTED[name]
    assert written.parent == parent
