"""Where a model's weights are, and the MLX directory that a worker loads, which may have to be made first."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mlx_ollama.models.blobs import Blobs
from mlx_ollama.models.manifest import JSON_TYPE, MODEL_TYPE, TENSOR_TYPE, Layer, Manifest

_FORM = re.compile(r"[A-Z0-9_]+")
_WEIGHTS_TYPES = (MODEL_TYPE, TENSOR_TYPE, JSON_TYPE)


@dataclass(frozen=True)
class Weights:
    """What a model computes with.

    Models of one `key` share a worker. `directory` is where the MLX model lies, or will lie: as it was found, or made
    of the GGUF file `gguf`, or of the files `parts` by name, in either case with its weights in another form if
    `quantize` names one (`Q8_0`, `Q4_K_M` …).
    """

    key: str
    directory: Path
    gguf: Path | None = None
    parts: Mapping[str, Path] = field(default_factory=dict)
    quantize: str = ""

    @classmethod
    def at(cls, directory: Path, key: str) -> "Weights":
        """Weights that are used where they lie."""
        return cls(key, directory)

    @classmethod
    def of(cls, manifest: Manifest, quantize: str, blobs: Blobs, converted: Path) -> "Weights | None":
        """The weights that layers stand for; None if there are none among them, as with models that live elsewhere.

        Raises:
            ValueError: for a form that is none: `quantize` may be a stranger's word.
        """
        if quantize and not _FORM.fullmatch(quantize):
            raise ValueError(f"{quantize!r} is no form of weights")
        layers = manifest.of_type(*_WEIGHTS_TYPES)
        gguf = next((layer for layer in layers if layer.media_type == MODEL_TYPE), None)
        if gguf is not None:
            key = _key([gguf], quantize)
            return cls(key, converted / key, gguf=blobs.path(gguf.digest), quantize=quantize)
        if layers:
            key = _key(layers, quantize)
            parts = dict(_named(layers, blobs))
            return cls(key, converted / key, parts=parts, quantize=quantize)
        return None

    @property
    def is_made(self) -> bool:
        """Whether the directory is ours, made of something else."""
        return self.gguf is not None or bool(self.parts)


def _key(layers: Iterable[Layer], quantize: str) -> str:
    """One GGUF file is called by its digest, many files by the digest of their names and digests."""
    entries = [(layer.name, layer.digest) for layer in layers]
    if len(entries) == 1:
        name = entries[0][1].replace(":", "-")
    else:
        name = f"sha256-{hashlib.sha256(repr(sorted(entries)).encode()).hexdigest()}"
    return f"{name}-{quantize}" if quantize else name


def _named(layers: Iterable[Layer], blobs: Blobs) -> Iterable[tuple[str, Path]]:
    """File names that a loader finds: weights begin with `model` and end with `.safetensors`."""
    for number, layer in enumerate(layers):
        name = layer.name
        if layer.media_type == TENSOR_TYPE and not name.endswith(".safetensors"):
            # One tensor to a blob, as the reference stores its own MLX models.
            name = f"model-{number:05d}.safetensors"
        elif layer.media_type == TENSOR_TYPE and not name.startswith("model"):
            name = f"model-{name}"
        yield name, blobs.path(layer.digest)
