"""The model store: manifests and content-addressed blobs, in the layout that Ollama uses for its own (wire-spec 6.4).

    models/manifests/<host>/<namespace>/<model>/<tag>     what a name stands for
    models/blobs/sha256-<hex>                             its config, template, parameters …

Weights are not copied in: a layer of our own media type says in which MLX model directory they lie.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from mlx_ollama.models.names import ModelName
from mlx_ollama.types import Message

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
DIRECTORY_TYPE = "application/vnd.mlx-ollama.image.directory"
_OLLAMA_TYPE = "application/vnd.ollama.image."
TEMPLATE_TYPE = _OLLAMA_TYPE + "template"
SYSTEM_TYPE = _OLLAMA_TYPE + "system"
PARAMS_TYPE = _OLLAMA_TYPE + "params"
MESSAGES_TYPE = _OLLAMA_TYPE + "messages"
LICENSE_TYPE = _OLLAMA_TYPE + "license"


class StoreError(Exception):
    """A manifest or blob that cannot be read or written."""


@dataclass(frozen=True)
class Layer:
    """A blob that a manifest refers to; `size` in bytes."""

    media_type: str
    digest: str
    size: int

    def as_json(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True)
class Recipe:
    """What a new model is made of, before it is written. `config` is the object that Ollama keeps beside the layers."""

    directory: Path
    weight_bytes: int
    config: Mapping[str, Any]
    template: str = ""
    system: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    messages: Sequence[Message] = ()
    licenses: Sequence[str] = ()


@dataclass(frozen=True)
class StoredModel:
    """A model as the store has it. `digest` is the manifest's, without prefix; `modified` is in nanoseconds."""

    name: ModelName
    digest: str
    modified: int
    size: int
    directory: Path
    weights_digest: str
    config: Mapping[str, Any]
    template: str
    system: str
    parameters: Mapping[str, Any]
    messages: tuple[Message, ...]
    licenses: tuple[str, ...]


class Store:
    """Reads and writes `root` (the `models` folder). Several processes may use one store at once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._cache: dict[Path, tuple[tuple[int, int, int], StoredModel]] = {}

    def names(self) -> Iterator[ModelName]:
        """Every name that has a manifest; strangers' files in between are passed over."""
        for path in sorted(self._manifests.glob("*/*/*/*")):
            host, namespace, model, tag = path.relative_to(self._manifests).parts
            if path.is_file() and not tag.startswith("."):
                yield ModelName(host, namespace, model, tag)

    def models(self) -> list[StoredModel]:
        """Every model whose manifest can be read, the newest first (wire-spec 5.3)."""
        found = []
        for name in self.names():
            try:
                found.append(self._read(name))
            except StoreError:
                continue
        return sorted(found, key=lambda model: model.modified // 1_000_000_000, reverse=True)

    def find(self, name: ModelName) -> StoredModel | None:
        """The model of that name, in whatever case it is stored (wire-spec 7.4).

        Raises:
            StoreError: if its manifest or blobs cannot be read.
        """
        stored = next((other for other in self.names() if other.matches(name)), None)
        return self._read(stored) if stored else None

    def write(self, name: ModelName, recipe: Recipe) -> StoredModel:
        """Make or replace a model; it appears only when every blob is on disk.

        Raises:
            StoreError: for want of room or rights.
        """
        name = next((other for other in self.names() if other.matches(name)), name)
        try:
            layers = [layer.as_json() for layer in self._layers(recipe)]
            config = self._put(CONFIG_TYPE, orjson.dumps(recipe.config))
            manifest = {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": config.as_json(),
                "layers": layers,
            }
            _replace(self._path(name), orjson.dumps(manifest))
        except OSError as error:
            raise StoreError(f"cannot write {name.display} into {self._root}: {error}") from error
        return self._read(name)

    @cached_property
    def _manifests(self) -> Path:
        return self._root / "manifests"

    def _path(self, name: ModelName) -> Path:
        return self._manifests.joinpath(*name.parts)

    def _blob(self, digest: str) -> Path:
        return self._root / "blobs" / digest.replace(":", "-")

    def _layers(self, recipe: Recipe) -> Iterator[Layer]:
        reference = {"path": str(recipe.directory), "size": recipe.weight_bytes}
        yield self._put(DIRECTORY_TYPE, orjson.dumps(reference))
        if recipe.template:
            yield self._put(TEMPLATE_TYPE, recipe.template.encode())
        if recipe.system:
            yield self._put(SYSTEM_TYPE, recipe.system.encode())
        for text in recipe.licenses:
            yield self._put(LICENSE_TYPE, text.encode())
        if recipe.parameters:
            yield self._put(PARAMS_TYPE, orjson.dumps(recipe.parameters))
        if recipe.messages:
            turns = [{"role": message.role, "content": message.content} for message in recipe.messages]
            yield self._put(MESSAGES_TYPE, orjson.dumps(turns))

    def _put(self, media_type: str, content: bytes) -> Layer:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        path = self._blob(digest)
        if not path.is_file():
            _replace(path, content)
        return Layer(media_type, digest, len(content))

    def _read(self, name: ModelName) -> StoredModel:
        path = self._path(name)
        try:
            status = path.stat()
            stamp = status.st_mtime_ns, status.st_ino, status.st_size
            cached = self._cache.get(path)
            if cached is None or cached[0] != stamp:
                self._cache[path] = cached = stamp, self._parse(name, path.read_bytes(), status.st_mtime_ns)
            return cached[1]
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise StoreError(f"cannot read {name.display} from {self._root}: {error}") from error

    def _parse(self, name: ModelName, manifest: bytes, modified: int) -> StoredModel:
        members = orjson.loads(manifest)
        layers = [Layer(layer["mediaType"], layer["digest"], layer["size"]) for layer in members["layers"]]
        directory = next(layer for layer in layers if layer.media_type == DIRECTORY_TYPE)
        reference = orjson.loads(self._content(directory))

        def texts(media_type: str) -> tuple[str, ...]:
            return tuple(self._content(layer).decode() for layer in layers if layer.media_type == media_type)

        turns = [turn for text in texts(MESSAGES_TYPE) for turn in orjson.loads(text)]
        return StoredModel(
            name=name,
            digest=hashlib.sha256(manifest).hexdigest(),
            modified=modified,
            size=sum(layer.size for layer in layers) + members["config"]["size"] + reference["size"],
            directory=Path(reference["path"]),
            weights_digest=directory.digest,
            config=orjson.loads(self._blob(members["config"]["digest"]).read_bytes()),
            template="".join(texts(TEMPLATE_TYPE)[-1:]),
            system="".join(texts(SYSTEM_TYPE)[-1:]),
            parameters={key: value for text in texts(PARAMS_TYPE) for key, value in orjson.loads(text).items()},
            messages=tuple(Message(turn["role"], turn["content"]) for turn in turns),
            licenses=texts(LICENSE_TYPE),
        )

    def _content(self, layer: Layer) -> bytes:
        return self._blob(layer.digest).read_bytes()


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
