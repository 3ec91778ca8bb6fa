"""The model store: manifests and content-addressed blobs, in the layout that Ollama uses for its own (wire-spec 6.4).

    models/manifests/<host>/<namespace>/<model>/<tag>     what a name stands for
    models/blobs/sha256-<hex>                             its config, template, parameters …
    converted/<key>                                       MLX directories made of GGUF files and of uploaded parts

Weights that lie on this machine as an MLX directory are not copied in: a layer of our own media type says where.
"""

import hashlib
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from mlx_ollama.models.blobs import Blobs
from mlx_ollama.models.config import in_order
from mlx_ollama.models.files import locked, replace, sweep
from mlx_ollama.models.manifest import (
    CONFIG_TYPE,
    DIRECTORY_TYPE,
    LICENSE_TYPE,
    MESSAGES_TYPE,
    MODEL_TYPE,
    PARAMS_TYPE,
    SYSTEM_TYPE,
    TEMPLATE_TYPE,
    Layer,
    Manifest,
    to_file,
)
from mlx_ollama.models.names import ModelName
from mlx_ollama.models.weights import Weights
from mlx_ollama.types import Message

QUANTIZE = "quantize"
"""The member of a configuration that names the form which weights are brought into; ours."""

FORGOTTEN_SECONDS = 24 * 3600.0

_MALFORMED = (ValueError, LookupError, TypeError, AttributeError)


class StoreError(Exception):
    """A manifest or blob that cannot be read or written."""


@dataclass(frozen=True)
class StoredModel:
    """A model as the store has it.

    `digest` is the manifest's, without prefix; `modified` is in nanoseconds; `weights` is None for a model that lives
    on another server.
    """

    name: ModelName
    digest: str
    modified: int
    size: int
    weights: Weights | None
    layers: tuple[Layer, ...]
    config: Mapping[str, Any]
    template: str
    system: str
    parameters: Mapping[str, Any]
    messages: tuple[Message, ...]
    licenses: tuple[str, ...]

    @property
    def directory(self) -> Path:
        """The MLX directory that a worker loads; nowhere for a model that lives elsewhere."""
        return self.weights.directory if self.weights else Path("/nowhere")

    @property
    def weights_digest(self) -> str:
        """Models of one digest share a worker."""
        return self.weights.key if self.weights else ""

    @property
    def parent(self) -> str:
        """The model that this one was made from, as it is displayed; empty for one made of files, or of tensors."""
        return next((layer.parent for layer in self.layers if layer.media_type in (MODEL_TYPE, DIRECTORY_TYPE)), "")

    @property
    def remote_host(self) -> str:
        """The server on which the model lives; empty for one that is here."""
        return str(self.config.get("remote_host", ""))


@dataclass(frozen=True)
class Content:
    """A layer that is to be written."""

    media_type: str
    content: bytes


@dataclass(frozen=True)
class Recipe:
    """What a model is made of: the object that Ollama keeps beside the layers, and these, there already or new."""

    config: Mapping[str, Any]
    parts: Sequence[Layer | Content]


@dataclass(frozen=True)
class Written:
    """A model as it was written, and each of its layers with whether it was new."""

    model: StoredModel
    layers: tuple[tuple[Layer, bool], ...]


class Store:
    """Reads and writes `root` (the `models` folder). Several processes may use one store at once.

    `converted` is where MLX directories are made; beside the root unless it is given.
    """

    def __init__(self, root: Path, converted: Path | None = None) -> None:
        self._manifests = root / "manifests"
        self._root = root
        self.blobs = Blobs(root / "blobs")
        self.converted = converted or root.parent / "converted"
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

    def stored_name(self, name: ModelName) -> ModelName | None:
        """The spelling under which a model is stored, which may be in another case (wire-spec 7.4)."""
        if self.manifest_path(name).is_file():
            return name
        return next((other for other in self.names() if other.matches(name)), None)

    def find(self, name: ModelName) -> StoredModel | None:
        """The model of that name, in whatever case it is stored (wire-spec 7.4).

        Raises:
            StoreError: if its manifest or blobs cannot be read.
        """
        stored = self.stored_name(name)
        return self._read(stored) if stored else None

    def write(self, name: ModelName, recipe: Recipe) -> Written:
        """Make or replace a model; it appears with everything that it consists of, or not at all.

        Raises:
            StoreError: for want of room or rights, or if a layer that it builds on is gone.
        """
        try:
            with self._alone():
                name = self.stored_name(name) or name
                layers = [self._kept(part) for part in recipe.parts]
                config, _ = self._put(Content(CONFIG_TYPE, to_file(in_order(recipe.config))))
                self._replace(name, Manifest(config, tuple(layer for layer, _ in layers)).dump())
                return Written(self._read(name), tuple(layers))
        except OSError as error:
            raise StoreError(f"cannot write {name.display} into {self._root}: {error}") from error

    def adopt(self, name: ModelName, manifest: Manifest) -> StoredModel:
        """Give a name to what a manifest lists, all of which must be here.

        Raises:
            StoreError: for want of room or rights, or of a blob, or if it speaks of a folder of this machine: that is
                our word, and nobody else's.
        """
        if manifest.of_type(DIRECTORY_TYPE):
            raise StoreError(f"{name.display} refers to a folder of another machine")
        try:
            with self._alone():
                name = self.stored_name(name) or name
                for layer in (*manifest.layers, manifest.config):
                    self._kept(layer)
                self._parse(name, content := manifest.dump(), 0)
                self._replace(name, content)
                return self._read(name)
        except OSError as error:
            raise StoreError(f"cannot write {name.display} into {self._root}: {error}") from error
        except _MALFORMED as error:
            raise StoreError(f"{name.display} cannot be used here: {error}") from error

    def copy(self, source: ModelName, destination: ModelName) -> None:
        """Give a model a second name; both are independent from then on.

        Raises:
            StoreError: for want of room or rights, or if the source is gone.
        """
        try:
            with self._alone():
                destination = self.stored_name(destination) or destination
                self._replace(destination, self.manifest_path(source).read_bytes())
        except OSError as error:
            raise StoreError(f"cannot copy {source.display} to {destination.display}: {error}") from error

    def delete(self, name: ModelName) -> None:
        """Take a model away, with every blob that no other model refers to.

        Raises:
            StoreError: for want of rights, or if it is gone already.
        """
        path = self.manifest_path(name)
        try:
            with self._alone():
                former = self._manifest(name)
                path.unlink()
                for folder in list(path.parents)[:3]:
                    # Not empty as long as there are other tags, models or namespaces.
                    with suppress(OSError):
                        folder.rmdir()
                self._remove_unused(former)
        except OSError as error:
            raise StoreError(f"cannot remove {name.display}: {error}") from error

    def sweep(self) -> None:
        """Remove what writers that died have left half done, and blobs that nobody has named for a day.

        The reference waits for an hour; here a command of its own may be fetching or converting what it will name.
        """
        self.blobs.sweep()
        sweep(self.converted)
        # A folder may hold nothing but what its first writer has left.
        for folder in self._manifests.glob("*/*/*/"):
            sweep(folder)
        with suppress(OSError), self._alone():
            manifests = self._manifests_of_all()
            if manifests is not None:
                self.blobs.remove_unused(_digests(manifests), before=time.time() - FORGOTTEN_SECONDS)

    def _alone(self) -> AbstractContextManager[object]:
        """A time in which nobody else writes: no blob goes while a manifest that needs it is on its way."""
        return locked(self._root / ".lock", keep=True)

    def _replace(self, name: ModelName, manifest: bytes) -> None:
        former = self._manifest(name)
        replace(self.manifest_path(name), manifest)
        self._remove_unused(former)

    def _kept(self, part: "Layer | Content") -> tuple[Layer, bool]:
        if isinstance(part, Content):
            return self._put(part)
        if not self.blobs.has(part.digest):
            raise StoreError(f"{part.digest} is not in the store any more")
        return part, False

    def _put(self, content: Content) -> tuple[Layer, bool]:
        digest, is_new = self.blobs.put(content.content)
        return Layer(content.media_type, digest, len(content.content)), is_new

    def _manifest(self, name: ModelName) -> Manifest | None:
        try:
            return Manifest.parse(self.manifest_path(name).read_bytes())
        except (OSError, *_MALFORMED):
            return None

    def _remove_unused(self, former: Manifest | None) -> None:
        """Remove the blobs of a manifest that is gone, and the directory made of them, if nobody else has them."""
        if former is None:
            return
        others = self._manifests_of_all()
        if others is None:
            return
        made = self._made_of(former)
        if made is not None and made not in {self._made_of(other) for other in others}:
            shutil.rmtree(made, ignore_errors=True)
        for digest in former.digests - _digests(others):
            self.blobs.remove(digest)

    def _manifests_of_all(self) -> list[Manifest] | None:
        """What all models need; None if one cannot be read, which may need anything."""
        found = [self._manifest(name) for name in self.names()]
        readable = [manifest for manifest in found if manifest]
        return readable if len(readable) == len(found) else None

    def _made_of(self, manifest: Manifest) -> Path | None:
        """The directory in our own folder that holds its weights; None for weights that lie elsewhere."""
        try:
            config = orjson.loads(self.blobs.read(manifest.config.digest))
            weights, _ = self._weights(manifest, str(config.get(QUANTIZE, "")))
        except (OSError, *_MALFORMED):
            return None
        if weights is None or not self._is_ours(weights.directory):
            return None
        # However it is spelled in a manifest: there may be links, or `..`, on the way.
        return self.converted / weights.directory.name

    def _is_ours(self, directory: Path) -> bool:
        try:
            return directory.name != ".." and directory.parent.samefile(self.converted)
        except OSError:
            return False

    def manifest_path(self, name: ModelName) -> Path:
        """Where the manifest of a name is, or would be."""
        return self._manifests.joinpath(*name.parts)

    def _read(self, name: ModelName) -> StoredModel:
        path = self.manifest_path(name)
        stamp = None
        while True:
            before = stamp
            try:
                status = path.stat()
                stamp = status.st_mtime_ns, status.st_ino, status.st_size
                cached = self._cache.get(path)
                if cached is None or cached[0] != stamp:
                    self._cache[path] = cached = stamp, self._parse(name, path.read_bytes(), status.st_mtime_ns)
                return cached[1]
            except (OSError, *_MALFORMED) as error:
                # Between its manifest and its blobs a model may have been replaced: then there is a new manifest.
                if stamp == before:
                    raise StoreError(f"cannot read {name.display} from {self._root}: {error}") from error

    def _parse(self, name: ModelName, text: bytes, modified: int) -> StoredModel:
        manifest = Manifest.parse(text)
        config = orjson.loads(self.blobs.read(manifest.config.digest))
        weights, elsewhere = self._weights(manifest, str(config.get(QUANTIZE, "")))
        turns = [turn for content in self._contents(manifest, MESSAGES_TYPE) for turn in orjson.loads(content)]
        params = [orjson.loads(content) for content in self._contents(manifest, PARAMS_TYPE)]
        return StoredModel(
            name=name,
            digest=hashlib.sha256(text).hexdigest(),
            modified=modified,
            size=manifest.size + elsewhere,
            weights=weights,
            layers=manifest.layers,
            config=config,
            template=b"".join(self._contents(manifest, TEMPLATE_TYPE)[-1:]).decode(),
            system=b"".join(self._contents(manifest, SYSTEM_TYPE)[-1:]).decode(),
            parameters={key: value for members in params for key, value in members.items()},
            messages=tuple(Message(turn["role"], turn["content"]) for turn in turns),
            licenses=tuple(content.decode() for content in self._contents(manifest, LICENSE_TYPE)),
        )

    def _weights(self, manifest: Manifest, quantize: str) -> tuple[Weights | None, int]:
        """The weights, and how many bytes of them lie outside the store."""
        for layer in manifest.of_type(DIRECTORY_TYPE):
            reference = orjson.loads(self.blobs.read(layer.digest))
            return Weights.at(Path(reference["path"]), layer.digest), int(reference["size"])
        return Weights.of(manifest, quantize, self.blobs, self.converted), 0

    def _contents(self, manifest: Manifest, media_type: str) -> list[bytes]:
        return [self.blobs.read(layer.digest) for layer in manifest.of_type(media_type)]


def _digests(manifests: Iterable[Manifest]) -> frozenset[str]:
    return frozenset(digest for manifest in manifests for digest in manifest.digests)
