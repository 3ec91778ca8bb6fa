"""OpenAI's way to ask for vectors: `/v1/embeddings` (wire-spec 8.4)."""

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from mlx_ollama import gojson
from mlx_ollama.dialects.answers import PLAIN_JSON
from mlx_ollama.dialects.gotypes import Struct, anything, integer, string
from mlx_ollama.dialects.v1types import ABOUT_THE_CALLER
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.types import Embed, Embeddings

ENCODINGS = ("float", "base64")

_EMBED = Struct(
    "EmbedRequest",
    {"model": string, "input": anything, "dimensions": integer, "encoding_format": string, **ABOUT_THE_CALLER},
    package="openai",
    empty="EOF",
)


def decode(body: bytes, headers: Mapping[str, str]) -> Embed:
    """`POST /v1/embeddings`. An empty text is one text; what is no text is found out only after the body was read."""
    members = _EMBED.read(body)
    encoding = members.get("encoding_format", "") or ENCODINGS[0]
    if encoding.lower() not in ENCODINGS:
        listed = ", ".join(f"'{known}'" for known in ENCODINGS)
        raise InvalidRequest(f"Invalid value for 'encoding_format' = {encoding}. Supported values: [{listed}].")
    texts = members.get("input")
    if texts is None or texts == []:
        raise InvalidRequest("invalid input")
    return Embed(
        model=members.get("model", ""),
        ignored=members.ignored,
        inputs=_texts(texts),
        dimensions=members.get("dimensions", 0),
        base64=encoding.lower() == "base64",
    )


class Answers:
    """Answers of `/v1/embeddings`."""

    whole_headers: Mapping[str, str] = {"content-type": PLAIN_JSON}

    def __init__(self, call: Embed) -> None:
        self._model = call.model
        self._write = _as_base64 if call.base64 else gojson.floats

    def vectors(self, embeddings: Embeddings) -> bytes:
        entries = [
            b'{"object":"embedding","embedding":%s,"index":%d}' % (self._write(vector), at)
            for at, vector in enumerate(embeddings.vectors)
        ]
        tokens = embeddings.usage.prompt_tokens if embeddings.usage else 0
        rest = gojson.dumps({"model": self._model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})
        return b'{"object":"list","data":[' + b",".join(entries) + b"]," + rest[1:] + b"\n"


def _texts(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) and all(isinstance(text, str) for text in value) else None


def _as_base64(numbers: Sequence[float]) -> bytes:
    """Little-endian float32."""
    return b'"' + base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)) + b'"'
