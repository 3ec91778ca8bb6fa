"""What a stored model is, by the directory that it refers to."""

from dataclasses import replace

from mlx_ollama.models.directory import NotAModel, inspect
from mlx_ollama.models.store import StoredModel
from mlx_ollama.types import Details


def details_of(model: StoredModel) -> Details:
    """The `details` of tags, ps and show; empty ones where the directory cannot be read."""
    parent = str(model.config.get("parent_model", ""))
    try:
        return replace(inspect(model.directory).details, parent_model=parent)
    except NotAModel:
        return Details("", "", (), "", "", parent)


def embeds(model: StoredModel) -> bool:
    """Whether it has the capability `embedding` (wire-spec 10.2); one whose directory cannot be read has not."""
    try:
        return inspect(model.directory).embedder is not None
    except NotAModel:
        return False
