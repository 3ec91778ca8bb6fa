"""What a stored model is, by the headers of its weights."""

from dataclasses import replace

from mlx_ollama.models.directory import ModelDirectory, NotAModel, inspect
from mlx_ollama.models.store import QUANTIZE, StoredModel
from mlx_ollama.types import Details


def details_of(model: StoredModel) -> Details:
    """The `details` of tags, ps and show; what was noted at its creation where its weights cannot be looked at."""
    directory = directory_of(model)
    if directory is None:
        return _noted(model)
    details = replace(directory.details, parent_model=model.parent)
    quantized = str(model.config.get(QUANTIZE, ""))
    return replace(details, quantization_level=quantized) if quantized else details


def embeds(model: StoredModel) -> bool:
    """Whether it has the capability `embedding` (wire-spec 10.2); one whose weights cannot be looked at has not."""
    directory = directory_of(model)
    return directory is not None and directory.embedder is not None


def directory_of(model: StoredModel, *, arrays: bool = False) -> ModelDirectory | None:
    """What the model's weights are; None where they cannot be looked at. `arrays` are those of a GGUF file's header."""
    try:
        return described(model, arrays=arrays)
    except NotAModel:
        return None


def described(model: StoredModel, *, arrays: bool = False) -> ModelDirectory:
    """As `directory_of`.

    Raises:
        NotAModel: where they cannot be looked at; the message says why.
    """
    if model.weights and model.weights.gguf:
        return ModelDirectory.of_gguf(model.weights.gguf, model.directory, arrays=arrays)
    if model.weights and model.weights.parts and not model.directory.is_dir():
        return ModelDirectory.of_parts(model.directory, model.weights.parts)
    return inspect(model.directory)


def _noted(model: StoredModel) -> Details:
    config = model.config
    return Details(
        format=str(config.get("model_format", "")),
        family=str(config.get("model_family", "")),
        families=tuple(config.get("model_families") or ()),
        parameter_size=str(config.get("model_type", "")),
        quantization_level=str(config.get("file_type", "")),
        parent_model=model.parent,
        context_length=int(config.get("context_length", 0)),
        embedding_length=int(config.get("embedding_length", 0)),
    )
