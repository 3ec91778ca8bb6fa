"""Fetching and sending models (wire-spec 6.2, 6.3)."""

from collections.abc import Iterator
from dataclasses import replace

from mlx_ollama.errors import InvalidRequest, JobFailed
from mlx_ollama.models.making import MakingFailed, make
from mlx_ollama.models.manifest import MODEL_TYPE, TENSOR_TYPE
from mlx_ollama.models.names import ModelName, Reference
from mlx_ollama.models.registry import Registry
from mlx_ollama.models.store import Store, StoreError
from mlx_ollama.models.weights import Weights
from mlx_ollama.types import Progress, Pull, Push


def pull(store: Store, call: Pull) -> Iterator[Progress]:
    """Check a request to fetch a model; what comes back does the work.

    Raises:
        InvalidRequest: at once, for the name.
        JobFailed: on the way.
    """
    return _pull(store, Reference.parse(call.model).name, insecure=call.insecure)


def push(store: Store, call: Push) -> Iterator[Progress]:
    """Check a request to send a model; what comes back does the work.

    Raises:
        InvalidRequest: at once, for an empty name.
        JobFailed: on the way.
    """
    if not call.model:
        raise InvalidRequest("model is required")
    return _push(store, call)


def _pull(store: Store, name: ModelName, *, insecure: bool) -> Iterator[Progress]:
    yield Progress("pulling manifest")
    with Registry(name, insecure=insecure) as registry:
        try:
            manifest = registry.manifest()
        except JobFailed as error:
            raise JobFailed(f"pull model manifest: {error.message}") from error
        if not manifest.of_type(MODEL_TYPE, TENSOR_TYPE):
            raise JobFailed(f"{name.display} has no weights that could be used here")
        for layer in (*manifest.layers, manifest.config):
            try:
                yield from registry.fetch(layer, store.blobs)
            except OSError as error:
                raise JobFailed(f"{layer.digest} cannot be stored: {error.strerror}") from error
    yield Progress("verifying sha256 digest")
    weights = Weights.of(manifest, "", store.blobs, store.converted)
    try:
        for told in make(weights) if weights else ():
            yield replace(told, status=f"{told.status} model")
    except MakingFailed as error:
        raise JobFailed(f"{name.display} cannot be used here: {error}") from error
    yield Progress("writing manifest")
    try:
        store.adopt(name, manifest)
    except StoreError as error:
        raise JobFailed(str(error)) from error
    yield Progress("success")


def _push(store: Store, call: Push) -> Iterator[Progress]:
    yield Progress("retrieving manifest")
    try:
        name = ModelName.parse(call.model)
    except InvalidRequest as error:
        raise JobFailed(f"unqualified name: registry.ollama.ai/library/{call.model}:latest") from error
    stored = store.stored_name(name)
    if stored is None:
        yield Progress("couldn't retrieve manifest")
        raise JobFailed(f"open {store.manifest_path(name)}: no such file or directory")
    if call.model.startswith("http://") and not call.insecure:
        raise JobFailed("insecure protocol http")
    raise JobFailed("push is not supported by this server")
