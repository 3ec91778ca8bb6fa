"""The models of this machine: list, show, copy, delete, create. No engine is needed, and no server."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlx_ollama.environment import hub_cache
from mlx_ollama.errors import (
    CloudDisabled,
    InvalidRequest,
    JobFailed,
    LoadFailed,
    MlxOllamaError,
    ModelMissing,
    ModelNotFound,
)
from mlx_ollama.models.capabilities import capabilities
from mlx_ollama.models.creating import Creator
from mlx_ollama.models.describe import described, details_of
from mlx_ollama.models.directory import NotAModel, jinja_template
from mlx_ollama.models.elsewhere import Elsewhere, HubCache, OllamaStore
from mlx_ollama.models.making import MakingFailed, make
from mlx_ollama.models.modelfile import DEFAULT_TEMPLATE, modelfile_text, parameters_text
from mlx_ollama.models.names import ModelName, Reference, Source
from mlx_ollama.models.store import Store, StoredModel, StoreError
from mlx_ollama.settings import Settings
from mlx_ollama.types import Copy, Create, Delete, ListedModel, Progress, Pull, Push, Show, ShownModel

_COPILOT = "GitHubCopilotChat/"
_NS = 1_000_000_000


def places(settings: Settings, ollama: Path | None = None) -> Sequence[Elsewhere]:
    """Where else models may lie: in the store of an Ollama, at `ollama` if it is given, and in the hub's cache."""
    return OllamaStore(ollama or settings.ollama_models, settings.converted), HubCache(hub_cache())


def library_of(settings: Settings) -> "Library":
    """The models that the settings name."""
    store = Store(settings.models, settings.converted)
    return Library(store, settings.registry, places(settings) if settings.adopt else ())


class Library:
    """What can be done with the models of a store. Everything here reads or writes files, and may take a while.

    Names without a host are pulled from `registry`, an address as `https://host`. What lies `elsewhere` is listed and
    used as if it was here, where nothing here has its name; what is built on it enters it into the store.
    """

    def __init__(self, store: Store, registry: str = "", elsewhere: Sequence[Elsewhere] = ()) -> None:
        self.store = store
        self._registry = registry
        self._elsewhere = elsewhere
        self._creator = Creator(store, self.pull)

    def find(self, name: ModelName) -> StoredModel | None:
        """The model of that name, in whatever case it is stored.

        Raises:
            JobFailed: if it cannot be read.
        """
        try:
            found = self.store.find(name)
        except StoreError as error:
            raise JobFailed(str(error)) from error
        return found or next((model for place in self._elsewhere if (model := place.find(name))), None)

    def list(self) -> Sequence[ListedModel]:
        """Every model, newest first."""
        return [
            ListedModel(
                name=model.name.display,
                modified=model.modified,
                size=model.size,
                digest=model.digest,
                details=details_of(model),
                capabilities=capabilities(model),
                remote_model=str(model.config.get("remote_model", "")),
                remote_host=model.remote_host,
            )
            for model in self._models()
        ]

    def _models(self) -> Sequence[StoredModel]:
        found = list(self.store.models())
        taken = {model.name.full.lower() for model in found}
        for place in self._elsewhere:
            new = [model for model in place.models() if model.name.full.lower() not in taken]
            taken |= {model.name.full.lower() for model in new}
            found += new
        return sorted(found, key=lambda model: model.modified // _NS, reverse=True)

    def _adopted(self, name: ModelName) -> None:
        """Enter a model that lies elsewhere, since something is to be built on it.

        Raises:
            JobFailed: if that cannot be done.
        """
        if self.store.stored_name(name) is not None:
            return
        try:
            for place in self._elsewhere:
                if model := place.find(name):
                    place.adopt(model, self.store)
                    return
        except (StoreError, NotAModel) as error:
            raise JobFailed(str(error)) from error

    def show(self, call: Show) -> ShownModel:
        """Describe a model.

        Raises:
            InvalidRequest, ModelNotFound, CloudDisabled: for the name.
            LoadFailed: if its weights cannot be looked at.
        """
        if not call.model:
            raise InvalidRequest("model is required")
        reference = Reference.parse(call.model)
        model = self.find(reference.name)
        if model is None or reference.source is Source.CLOUD:
            raise ModelMissing(reference.name.display)
        if model.remote_host:
            raise CloudDisabled("remote model details are unavailable")
        try:
            directory = described(model, arrays=call.verbose)
        except NotAModel as error:
            raise LoadFailed(str(error)) from error
        own = jinja_template(model.directory)
        template = model.template or own or DEFAULT_TEMPLATE
        system = call.system or model.system
        info = directory.model_info
        if call.user_agent.startswith(_COPILOT):
            info = _based(info, call.model)
        elif model.weights and model.weights.parts:
            # Its directory is named by a digest, which tells nobody anything.
            info = _based(info, model.name.model)
        return ShownModel(
            license="\n".join(model.licenses),
            modelfile=modelfile_text(
                model.name,
                _weights_path(model),
                # Jinja is no TEMPLATE: who builds on this gets it with the weights.
                template=model.template or ("" if own else DEFAULT_TEMPLATE),
                system=system,
                parameters={**model.parameters, **call.options},
                licenses=model.licenses,
                messages=model.messages,
                renderer=str(model.config.get("renderer", "")),
                parser=str(model.config.get("parser", "")),
            ),
            parameters=parameters_text(model.parameters),
            template=template,
            system=system,
            details=replace(details_of(model), context_length=0, embedding_length=0),
            messages=model.messages,
            model_info=info,
            tensors=directory.listed_tensors if directory.gguf or call.verbose else [],
            capabilities=capabilities(model),
            modified=model.modified,
            requires=str(model.config.get("requires", "")),
        )

    def copy(self, call: Copy) -> None:
        """Give a model a second name (wire-spec 6.5).

        Raises:
            InvalidRequest, ModelNotFound: for the names.
            JobFailed: if it cannot be written.
        """
        source = _name("source", call.model)
        destination = _name("destination", call.destination)
        self._adopted(source)
        stored = self.store.stored_name(source)
        if stored is None:
            raise ModelNotFound(f'model "{call.model}" not found')
        try:
            self.store.copy(stored, destination)
        except StoreError as error:
            raise JobFailed(str(error)) from error

    def delete(self, call: Delete) -> None:
        """Take a model away, with what no other model refers to (wire-spec 6.6).

        Raises:
            InvalidRequest, ModelNotFound: for the name.
            JobFailed: if it cannot be removed.
        """
        if not call.model:
            raise InvalidRequest("model is required")
        try:
            name = Reference.parse(call.model).name
        except InvalidRequest as error:
            raise InvalidRequest(f'name "{call.model}" is invalid') from error
        stored = self.store.stored_name(name)
        if stored is None:
            owner = next((place.owner for place in self._elsewhere if place.find(name)), "")
            if owner:
                raise InvalidRequest(f'model "{call.model}" belongs to {owner} and is deleted there')
            raise ModelMissing(call.model)
        try:
            self.store.delete(stored)
        except StoreError as error:
            raise JobFailed(str(error)) from error

    def create(self, call: Create) -> Iterator[Progress]:
        """Make a model (wire-spec 6.4); the work is done while its progress is read.

        Raises:
            InvalidRequest, JobFailed: at once or on the way.
        """
        if call.source and (reference := _reference(call.source)):
            self._adopted(reference.name)
        return self._creator.create(call)

    def pull(self, call: Pull) -> Iterator[Progress]:
        """Fetch a model (wire-spec 6.2).

        Raises:
            InvalidRequest, JobFailed: at once or on the way.
        """
        # An HTTP client takes a while to load, and most commands need none.
        from mlx_ollama.models.pulling import pull  # noqa: PLC0415 - see above

        return pull(self.store, call, self._registry)

    def push(self, call: Push) -> Iterator[Progress]:
        """Send a model (wire-spec 6.3).

        Raises:
            InvalidRequest, JobFailed: at once or on the way.
        """
        from mlx_ollama.models.pulling import push  # noqa: PLC0415 - see `pull`

        return push(self.store, call)


def ready(model: StoredModel) -> Iterator[Progress]:
    """See to it that the model's directory is there: it may have been made, and removed since. Tells how far it is.

    Raises:
        LoadFailed: if it cannot be made again.
    """
    try:
        yield from make(model.weights)
    except (MakingFailed, OSError) as error:
        raise LoadFailed(f"{model.name.display} cannot be prepared: {error}") from error


def _based(info: Mapping[str, Any], name: str) -> dict[str, Any]:
    return dict(sorted({**info, "general.basename": name}.items()))


def _weights_path(model: StoredModel) -> str:
    """What FROM names: a GGUF file, or a directory that is not ours; nothing for a model of many uploaded parts."""
    if model.weights is None or model.weights.parts:
        return ""
    return str(model.weights.gguf or model.weights.directory)


def _reference(text: str) -> Reference | None:
    """A reference, if it is one; whoever wants it complains otherwise."""
    try:
        return Reference.parse(text)
    except MlxOllamaError:
        return None


def _name(what: str, text: str) -> ModelName:
    try:
        return ModelName.parse(text)
    except InvalidRequest as error:
        raise InvalidRequest(f'{what} "{text}" is invalid') from error
