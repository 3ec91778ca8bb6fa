"""Fetching and sending models (wire-spec 6.2, 6.3)."""

from collections.abc import Iterator

from mlx_ollama.errors import InvalidRequest, JobFailed
from mlx_ollama.models.catalog import near, repository_of
from mlx_ollama.models.hub import HUB_HOSTS, NotOnHub, pull_from_hub
from mlx_ollama.models.making import MakingFailed, make_for_client
from mlx_ollama.models.manifest import DIRECTORY_TYPE, MODEL_TYPE, TENSOR_TYPE
from mlx_ollama.models.names import DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG, ModelName, Reference
from mlx_ollama.models.registry import NotInRegistry, Registry
from mlx_ollama.models.store import Store, StoreError
from mlx_ollama.models.weights import Weights
from mlx_ollama.types import Progress, Pull, Push


def pull(store: Store, call: Pull, registry: str) -> Iterator[Progress]:
    """Check a request to fetch a model; what comes back does the work.

    `org/repo` is a repository of the hub, and if there is none, a model of `registry`; so is `hf.co/org/repo`. A name
    alone is what the catalog says, else a model of `registry`. Another host is asked as a registry.

    Raises:
        InvalidRequest: at once, for the name.
        JobFailed: on the way.
    """
    name = Reference.parse(call.model).name
    if name.host in HUB_HOSTS:
        return pull_from_hub(store, name, f"{name.namespace}/{name.model}", name.tag)
    if name.host == DEFAULT_HOST:
        return _of_no_host(store, name, registry)
    return _of_registry(store, name, Registry(name, insecure=call.insecure))


def push(store: Store, call: Push) -> Iterator[Progress]:
    """Check a request to send a model; what comes back does the work.

    Raises:
        InvalidRequest: at once, for an empty name.
        JobFailed: on the way.
    """
    if not call.model:
        raise InvalidRequest("model is required")
    return _push(store, call)


def _of_no_host(store: Store, name: ModelName, registry: str) -> Iterator[Progress]:
    in_library = name.namespace == DEFAULT_NAMESPACE
    repository = repository_of(name) if in_library else f"{name.namespace}/{name.model}"
    not_there = ""
    if repository:
        try:
            yield from pull_from_hub(store, name, repository, DEFAULT_TAG if in_library else name.tag)
        except NotOnHub as error:
            not_there = error.message
        else:
            return
    try:
        yield from _of_registry(store, name, Registry(name, address=registry))
    except NotInRegistry as error:
        raise JobFailed(not_there or _with_near(error.message, name)) from error


def _with_near(message: str, name: ModelName) -> str:
    names = near(name)
    return f"{message}; did you mean {', '.join(names)}?" if names else message


def _of_registry(store: Store, name: ModelName, registry: Registry) -> Iterator[Progress]:
    yield Progress("pulling manifest")
    with registry:
        try:
            manifest = registry.manifest()
        except JobFailed as error:
            raise type(error)(f"pull model manifest: {error.message}") from error
        if not manifest.of_type(MODEL_TYPE, TENSOR_TYPE) or manifest.of_type(DIRECTORY_TYPE):
            raise JobFailed(f"{name.display} has no weights that could be used here")
        for layer in (*manifest.layers, manifest.config):
            try:
                yield from registry.fetch(layer, store.blobs)
            except OSError as error:
                raise JobFailed(f"{layer.digest} cannot be stored: {error.strerror}") from error
    yield Progress("verifying sha256 digest")
    weights = Weights.of(manifest, "", store.blobs, store.converted)
    try:
        yield from make_for_client(weights)
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
