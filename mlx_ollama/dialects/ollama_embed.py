"""Ollama's two ways to ask for vectors: `/api/embed` and the older `/api/embeddings` (wire-spec 6.8, 6.9)."""

import struct
from collections.abc import Mapping
from typing import Any

from mlx_ollama import gojson
from mlx_ollama.dialects.answers import REFUSAL_JSON
from mlx_ollama.dialects.gotypes import Struct, boolean, integer, keep_alive, mapping, string
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.types import Embed, Embeddings


def _texts(value: Any, where: str) -> tuple[str, ...]:
    """One text or several; a lone empty one is none, an empty one among others counts."""
    if isinstance(value, str):
        return (value,) if value else ()
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return tuple(value)
    raise InvalidRequest("invalid input type")


_COMMON = {"model": string, "keep_alive": keep_alive, "options": mapping}
_EMBED = Struct(
    "EmbedRequest", {**_COMMON, "input": lambda value, _: value, "truncate": boolean, "dimensions": integer}
)
_LEGACY = Struct("EmbeddingRequest", {**_COMMON, "prompt": string})


def decode_embed(body: bytes, headers: Mapping[str, str]) -> Embed:
    """`POST /api/embed`."""
    members = _EMBED.read(body)
    # Read last, since a field of the wrong type is complained of before it, wherever it stands.
    inputs = _texts(members.pop("input", ""), "")
    return Embed(**{"model": "", **members}, ignored=members.ignored, inputs=inputs)


def decode_legacy(body: bytes, headers: Mapping[str, str]) -> Embed:
    """`POST /api/embeddings`: one text, whole or not at all, and its vector as the model gives it."""
    members = _LEGACY.read(body)
    prompt = members.pop("prompt", "")
    inputs = (prompt,) if prompt else ()
    as_it_is = {"truncate": False, "normalize": False, "legacy": True}
    return Embed(**{"model": "", **members, **as_it_is}, ignored=members.ignored, inputs=inputs)


class EmbedAnswers:
    """Answers of `/api/embed`."""

    whole_headers: Mapping[str, str] = {"content-type": REFUSAL_JSON}

    def __init__(self, call: Embed) -> None:
        self._model = call.model

    def vectors(self, embeddings: Embeddings) -> bytes:
        return encode_embed(self._model, embeddings)


class LegacyAnswers:
    """Answers of `/api/embeddings`."""

    whole_headers: Mapping[str, str] = {"content-type": REFUSAL_JSON}

    def __init__(self, call: Embed) -> None: ...

    def vectors(self, embeddings: Embeddings) -> bytes:
        return encode_legacy(embeddings)


def encode_embed(model: str, embeddings: Embeddings) -> bytes:
    """The answer of `/api/embed`; its numbers are float32."""
    vectors = b",".join(gojson.floats(vector) for vector in embeddings.vectors)
    usage = embeddings.usage
    figures = {
        "total_duration": usage.total_ns if usage else 0,
        "load_duration": usage.load_ns if usage else 0,
        "prompt_eval_count": usage.prompt_tokens if usage else 0,
    }
    rest = gojson.dumps({name: figure for name, figure in figures.items() if figure})[1:]
    comma = b"," if rest != b"}" else b""
    return b'{"model":' + gojson.dumps(model) + b',"embeddings":[' + vectors + b"]" + comma + rest


def encode_legacy(embeddings: Embeddings) -> bytes:
    """The answer of `/api/embeddings`; its numbers are float32 widened to float64, and so written with more digits."""
    vector = embeddings.vectors[0] if embeddings.vectors else ()
    layout = f"{len(vector)}f"
    return b'{"embedding":' + gojson.floats(struct.unpack(layout, struct.pack(layout, *vector))) + b"}"
