"""Models of the Hugging Face hub, fetched by a process of their own (`mlx_ollama/hub`) into the cache that all share.

MLX weights are used where they lie in the cache; a GGUF file is linked into the store and converted.
"""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from mlx_ollama.errors import JobFailed
from mlx_ollama.models.blobs import check_digest
from mlx_ollama.models.children import ChildFailed, lines_of
from mlx_ollama.models.directory import NotAModel
from mlx_ollama.models.gguf_header import GgufHeader, NotGguf
from mlx_ollama.models.making import MakingFailed, make_for_client
from mlx_ollama.models.manifest import Manifest
from mlx_ollama.models.names import ModelName
from mlx_ollama.models.referring import of_gguf, referred
from mlx_ollama.models.store import Recipe, Store, StoreError
from mlx_ollama.models.weights import Weights
from mlx_ollama.types import Progress

HUB_HOSTS = ("hf.co", "huggingface.co")
"""Names that begin with one of these name a repository."""

_WHOLE_MODEL = "sha256:model"
"""The digest under which the reference tells how far a model of many files is (wire-spec 6.2)."""


class NotOnHub(JobFailed):
    """The hub has no such repository, or nothing in it that is of use here, or shows it only to whom it knows."""


def pull_from_hub(store: Store, name: ModelName, repository: str, tag: str) -> Iterator[Progress]:
    """Fetch a repository and call it `name`; `tag` is a quantisation, a branch, or `latest`.

    Raises:
        NotOnHub, JobFailed: on the way.
    """
    yield Progress("pulling manifest")
    fetched = yield from _fetched(repository, tag)
    place = Path(fetched["path"])
    try:
        if fetched["kind"] == "gguf":
            recipe = yield from _of_gguf(store, place, check_digest(fetched["digest"]))
        else:
            config, reference = referred(place)
            recipe = Recipe(config, [reference])
        yield Progress("writing manifest")
        store.write(name, recipe)
    except (NotAModel, NotGguf, MakingFailed) as error:
        raise JobFailed(f"{name.display} cannot be used here: {error}") from error
    except (OSError, StoreError) as error:
        raise JobFailed(f"{name.display} cannot be stored: {error}") from error
    yield Progress("success")


def _fetched(repository: str, tag: str) -> Generator[Progress, None, dict[str, Any]]:
    """Where the files lie in the cache, once all of them do."""
    known: dict[str, Any] = {}
    try:
        for told in lines_of("mlx_ollama.hub", repository, tag):
            if "total" in told:
                digest = known["digest"] or _WHOLE_MODEL
                called = digest[7:19] if known["digest"] else "model"
                yield Progress(f"pulling {called}", digest, told["total"], told["completed"])
            else:
                known = told
    except ChildFailed as error:
        if error.told.get("missing"):
            raise NotOnHub(f"pull model manifest: {error}") from error
        message = str(error) if known else f"pull model manifest: {error}"
        raise JobFailed(message) from error
    return known


def _of_gguf(store: Store, path: Path, digest: str) -> Generator[Progress, None, Recipe]:
    yield Progress("verifying sha256 digest")
    store.blobs.refer(path, digest)
    blob = store.blobs.path(digest)
    config, layer = of_gguf(GgufHeader.read(blob), blob)
    weights = Weights.of(Manifest(layer, (layer,)), "", store.blobs, store.converted)
    yield from make_for_client(weights)
    return Recipe(config, [layer])
