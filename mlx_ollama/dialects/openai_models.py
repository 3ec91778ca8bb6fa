"""OpenAI's list of models: `/v1/models` and `/v1/models/{model}` (wire-spec 8.5)."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_ollama import gojson
from mlx_ollama.dialects.answers import PLAIN_JSON
from mlx_ollama.models.names import Reference
from mlx_ollama.types import ListedModel, ShownModel

HEADERS: Mapping[str, str] = {"content-type": PLAIN_JSON}

_NANOSECONDS = 1_000_000_000


def encode_models(models: Sequence[ListedModel]) -> bytes:
    """`GET /v1/models`; an empty list is `null`."""
    entries = [_model(model.name, model.modified) for model in models]
    return gojson.dumps({"object": "list", "data": entries or None}) + b"\n"


def encode_model(name: str, model: ShownModel) -> bytes:
    """`GET /v1/models/{model}`, by the name that was asked for."""
    return gojson.dumps(_model(name, model.modified)) + b"\n"


def _model(name: str, modified: int) -> dict[str, Any]:
    owner = Reference.parse(name).name.namespace
    return {"id": name, "object": "model", "created": modified // _NANOSECONDS, "owned_by": owner}
