"""What a stored model is, by the directory that it refers to."""

from dataclasses import replace

from mlx_ollama.models.directory import ModelDirectory, NotAModel, inspect
from mlx_ollama.models.store import StoredModel
from mlx_ollama.types import Details


def details_of(model: StoredModel) -> Details:
    """The `details` of tags, ps and show; empty ones where the directory cannot be read."""
    parent = str(model.config.get("parent_model", ""))
    directory = directory_of(model)
    return replace(directory.details, parent_model=parent) if directory else Details("", "", (), "", "", parent)


def embeds(model: StoredModel) -> bool:
    """Whether it has the capability `embedding` (wire-spec 10.2); one whose directory cannot be read has not."""
    directory = directory_of(model)
    return directory is not None and directory.embedder is not None


def directory_of(model: StoredModel) -> ModelDirectory | None:
    """The directory that a model refers to; None where it cannot be read."""
    try:
        return inspect(model.directory)
    except NotAModel:
        return None
