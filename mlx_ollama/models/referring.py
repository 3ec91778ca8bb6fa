"""Models whose weights stay where they lie on this machine."""

from pathlib import Path
from typing import Any

from mlx_ollama.models.config import config_of
from mlx_ollama.models.directory import ModelDirectory, human_count
from mlx_ollama.models.gguf_header import GgufHeader
from mlx_ollama.models.manifest import DIRECTORY_TYPE, MODEL_TYPE, Layer, to_file
from mlx_ollama.models.store import Content


def referred(directory: Path) -> tuple[dict[str, Any], Content]:
    """The configuration of a model that refers to an MLX directory, and the layer that does so.

    Raises:
        NotAModel: if it is none.
    """
    model = ModelDirectory.read(directory)
    details = model.details
    config = config_of(
        details.format, details.family, details.families, details.parameter_size, details.quantization_level
    )
    return config, Content(DIRECTORY_TYPE, to_file({"path": str(directory), "size": model.weight_bytes}))


def of_gguf(header: GgufHeader, blob: Path) -> tuple[dict[str, Any], Layer]:
    """The configuration of a model that is a GGUF file of the store, and its layer."""
    config = config_of(
        "gguf", header.architecture, [header.architecture], human_count(header.parameter_count), header.file_type
    )
    digest = f"sha256:{blob.name.removeprefix('sha256-')}"
    return config, Layer(MODEL_TYPE, digest, blob.stat().st_size)
