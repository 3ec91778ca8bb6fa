"""Fetching and sending models (wire-spec 6.2, 6.3)."""

from collections.abc import Iterator

from mlx_ollama.errors import InvalidRequest, JobFailed
from mlx_ollama.models.names import ModelName, Reference
from mlx_ollama.models.store import Store
from mlx_ollama.types import Progress, Pull, Push


def pull(call: Pull) -> Iterator[Progress]:
    """Check a request to fetch a model; what comes back does the work.

    Raises:
        InvalidRequest: at once, for the name.
        JobFailed: on the way.
    """
    return _pull(Reference.parse(call.model))


def push(store: Store, call: Push) -> Iterator[Progress]:
    """Check a request to send a model; what comes back does the work.

    Raises:
        InvalidRequest: at once, for an empty name.
        JobFailed: on the way.
    """
    if not call.model:
        raise InvalidRequest("model is required")
    return _push(store, call)


def _pull(reference: Reference) -> Iterator[Progress]:
    yield Progress("pulling manifest")
    raise JobFailed(f"{reference.name.display} cannot be pulled: this server has no registry yet; import it from files")


def _push(store: Store, call: Push) -> Iterator[Progress]:
    yield Progress("retrieving manifest")
    try:
        name = ModelName.parse(call.model)
    except InvalidRequest as error:
        raise JobFailed(f"unqualified name: {call.model}") from error
    stored = store.stored_name(name)
    if stored is None:
        yield Progress("couldn't retrieve manifest")
        raise JobFailed(f"open {store.manifest_path(name)}: no such file or directory")
    if call.model.startswith("http://") and not call.insecure:
        raise JobFailed("insecure protocol http")
    raise JobFailed("push is not supported by this server")
