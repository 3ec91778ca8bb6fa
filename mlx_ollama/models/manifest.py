"""What a name stands for: a configuration and layers, each a blob, written as Ollama writes them (wire-spec 6.4)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from mlx_ollama import gojson
from mlx_ollama.models.blobs import is_digest
from mlx_ollama.models.files import is_inside

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
DIRECTORY_TYPE = "application/vnd.mlx-ollama.image.directory"
"""Ours: says in which MLX model directory the weights lie."""

_OLLAMA_TYPE = "application/vnd.ollama.image."
MODEL_TYPE = _OLLAMA_TYPE + "model"
TENSOR_TYPE = _OLLAMA_TYPE + "tensor"
JSON_TYPE = _OLLAMA_TYPE + "json"
TEMPLATE_TYPE = _OLLAMA_TYPE + "template"
SYSTEM_TYPE = _OLLAMA_TYPE + "system"
PARAMS_TYPE = _OLLAMA_TYPE + "params"
MESSAGES_TYPE = _OLLAMA_TYPE + "messages"
LICENSE_TYPE = _OLLAMA_TYPE + "license"


@dataclass(frozen=True)
class Layer:
    """A blob that a manifest refers to.

    `size` is in bytes; `parent` is the model, as it is displayed, from which the layer was taken; `name` is the file
    or tensor that it holds, where a model consists of many.
    """

    media_type: str
    digest: str
    size: int
    parent: str = ""
    name: str = ""

    @classmethod
    def of(cls, members: Mapping[str, Any]) -> "Layer":
        """Read a manifest's entry, which a stranger may have written.

        Raises:
            LookupError, TypeError, ValueError: if it is none, or its digest or name would lie outside the store.
        """
        digest, parent, name = members["digest"], members.get("from", ""), members.get("name", "")
        if not is_digest(digest):
            raise ValueError(f"{digest!r} is no digest")
        if not is_inside(name):
            raise ValueError(f"{name!r} is not the name of a model's file")
        return cls(members["mediaType"], digest, int(members["size"]), parent, name)

    def as_json(self) -> dict[str, Any]:
        members = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        return members | {key: value for key, value in (("from", self.parent), ("name", self.name)) if value}


@dataclass(frozen=True)
class Manifest:
    config: Layer
    layers: tuple[Layer, ...]

    @classmethod
    def parse(cls, text: bytes) -> "Manifest":
        """Read a manifest file.

        Raises:
            ValueError, LookupError, TypeError, AttributeError: if it is none.
        """
        return cls.of(orjson.loads(text))

    @classmethod
    def of(cls, members: Mapping[str, Any]) -> "Manifest":
        """Read a manifest that is decoded already.

        Raises:
            LookupError, TypeError, AttributeError, ValueError: if it is none, or none that can be trusted.
        """
        return cls(Layer.of(members["config"]), tuple(Layer.of(layer) for layer in members["layers"] or ()))

    @property
    def size(self) -> int:
        """Bytes of everything that it lists."""
        return self.config.size + sum(layer.size for layer in self.layers)

    @property
    def digests(self) -> frozenset[str]:
        return frozenset((self.config.digest, *(layer.digest for layer in self.layers)))

    def of_type(self, *media_types: str) -> Sequence[Layer]:
        return [layer for layer in self.layers if layer.media_type in media_types]

    def dump(self) -> bytes:
        """The file's content, to the byte what the reference writes for the same layers."""
        return to_file(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": self.config.as_json(),
                "layers": [layer.as_json() for layer in self.layers],
            }
        )


def to_file(value: object) -> bytes:
    """JSON as the reference's store has it, with a line end."""
    return gojson.dumps(value) + b"\n"
