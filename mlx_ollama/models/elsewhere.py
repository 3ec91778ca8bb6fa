"""Models that other programs keep on this machine: Ollama's own store, and the cache of the Hugging Face hub."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import orjson

from mlx_ollama.errors import InvalidRequest
from mlx_ollama.models.directory import ModelDirectory, NotAModel, inspect
from mlx_ollama.models.manifest import Manifest
from mlx_ollama.models.names import DEFAULT_TAG, ModelName
from mlx_ollama.models.referring import referred
from mlx_ollama.models.store import Recipe, Store, StoredModel, StoreError
from mlx_ollama.models.weights import Weights

_ADAPTER = "application/vnd.ollama.image.adapter"
_INDEX = "model.safetensors.index.json"
_REPOSITORY = "models--"


class Elsewhere(Protocol):
    """A place with models that can be used here."""

    @property
    def owner(self) -> str:
        """Whose it is, for people."""

    def models(self) -> list[StoredModel]:
        """What could be used here."""

    def find(self, name: ModelName) -> StoredModel | None:
        """The model of that name, in any case."""

    def adopt(self, model: StoredModel, store: Store) -> None:
        """Enter it into `store`; nothing is copied.

        Raises:
            StoreError, NotAModel: if that cannot be done.
        """


class OllamaStore:
    """The store of an Ollama at `root`; what must be converted goes into `converted`."""

    owner = "Ollama"

    def __init__(self, root: Path, converted: Path) -> None:
        self._store = Store(root, converted)

    def models(self) -> list[StoredModel]:
        """Every model with weights; without those that live elsewhere, or need an adapter."""
        return [model for model in self._store.models() if _is_usable(model)]

    def find(self, name: ModelName) -> StoredModel | None:
        """The model of that name, in any case; what cannot be read is not there."""
        try:
            model = self._store.find(name)
        except StoreError:
            return None
        return model if model and _is_usable(model) else None

    def adopt(self, model: StoredModel, store: Store) -> None:
        """Link its blobs, and write its manifest into `store`.

        Raises:
            StoreError: for want of room or rights, or of a blob.
        """
        try:
            manifest = Manifest.parse(self._store.manifest_path(model.name).read_bytes())
            for digest in manifest.digests:
                store.blobs.refer(self._store.blobs.path(digest), digest)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise StoreError(f"cannot adopt {model.name.display}: {error}") from error
        store.adopt(model.name, manifest)


class HubCache:
    """What lies in `folder`, the cache of the Hugging Face hub, and computes: weights that are whole, by `org/repo`."""

    owner = "Hugging Face"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def models(self) -> list[StoredModel]:
        """Every model that was fetched to its end."""
        return [model for name, path in self._snapshots() if (model := _of_snapshot(name, path))]

    def find(self, name: ModelName) -> StoredModel | None:
        """The model of that name, in any case."""
        found = (_of_snapshot(other, path) for other, path in self._snapshots() if other.matches(name))
        return next((model for model in found if model), None)

    def adopt(self, model: StoredModel, store: Store) -> None:
        """Enter where it lies into `store`.

        Raises:
            StoreError: for want of room or rights.
            NotAModel: if it has gone.
        """
        config, reference = referred(model.directory)
        store.write(model.name, Recipe(config, [reference]))

    def _snapshots(self) -> Iterator[tuple[ModelName, Path]]:
        for ref in sorted(self._folder.glob(f"{_REPOSITORY}*--*/refs/main")):
            repository = ref.parents[1]
            organisation, _, name = repository.name.removeprefix(_REPOSITORY).partition("--")
            try:
                parsed = ModelName.parse(f"{organisation}/{name}:{DEFAULT_TAG}")
                yield parsed, repository / "snapshots" / ref.read_text().strip()
            except (InvalidRequest, OSError, UnicodeDecodeError):
                continue


def _is_usable(model: StoredModel) -> bool:
    return model.weights is not None and not any(layer.media_type == _ADAPTER for layer in model.layers)


def _of_snapshot(name: ModelName, path: Path) -> StoredModel | None:
    """A snapshot as a model of a store would be; None for one that is not whole, or is for something else."""
    try:
        directory = inspect(path)
        if not _computes(directory) or not _is_whole(path):
            return None
        config, reference = referred(path)
        modified = path.stat().st_mtime_ns
    except (NotAModel, OSError):
        return None
    key = f"sha256:{hashlib.sha256(reference.content).hexdigest()}"
    return StoredModel(
        name=name,
        digest=hashlib.sha256(f"{name.full} {path.name}".encode()).hexdigest(),
        modified=modified,
        size=directory.weight_bytes,
        weights=Weights.at(path, key),
        layers=(),
        config=config,
        template="",
        system="",
        parameters={},
        messages=(),
        licenses=(),
    )


def _computes(directory: ModelDirectory) -> bool:
    """Whether it is a model of text: the cache also holds those of images and sounds."""
    kinds = directory.config.get("architectures") or ()
    return (
        any(str(kind).endswith("ForCausalLM") for kind in kinds)
        or directory.embedder is not None
        or "quantization" in directory.config
    )


def _is_whole(path: Path) -> bool:
    """Whether every file of the weights is there, as far as the snapshot says which there are."""
    index = path / _INDEX
    if not index.is_file():
        return True
    try:
        files = set(orjson.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, LookupError, TypeError, AttributeError):
        return False
    return all((path / str(file)).is_file() for file in files)
