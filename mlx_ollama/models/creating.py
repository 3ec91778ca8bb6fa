"""Creating models: from other models, and from uploaded GGUF or safetensors files (wire-spec 6.4)."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlx_ollama import gojson
from mlx_ollama.errors import InvalidRequest, JobFailed
from mlx_ollama.gotemplate import Template, TemplateError
from mlx_ollama.models.blobs import check_digest
from mlx_ollama.models.config import checked_info, config_of, remote_config
from mlx_ollama.models.directory import ModelDirectory, NotAModel
from mlx_ollama.models.files import is_inside
from mlx_ollama.models.gguf_header import MAGIC, GgufHeader, NotGguf
from mlx_ollama.models.making import FLOATS, QUANTIZED_BITS, MakingFailed, make_for_client
from mlx_ollama.models.manifest import (
    JSON_TYPE,
    LICENSE_TYPE,
    MESSAGES_TYPE,
    PARAMS_TYPE,
    SYSTEM_TYPE,
    TEMPLATE_TYPE,
    TENSOR_TYPE,
    Layer,
    Manifest,
    to_file,
)
from mlx_ollama.models.names import ModelName, Reference, Source
from mlx_ollama.models.referring import of_gguf, referred
from mlx_ollama.models.remote import CLOUD_HOST, remote_address
from mlx_ollama.models.store import QUANTIZE, Content, Recipe, Store, StoredModel, StoreError
from mlx_ollama.models.weights import Weights
from mlx_ollama.types import Create, Message, Progress, Pull

WHOLE_FILE = "0000000000000000000"
"""The digest under which the reference tells how far a file has been looked through."""

_UNITED = {"Q4_K": "Q4_K_M"}
_SUPPORTED = "F32, F16, Q4_K_S, Q4_K_M, Q8_0"

Pulling = Callable[[Pull], Iterator[Progress]]
Base = tuple[dict[str, Any], list[Layer | Content]]
"""A configuration and layers to build on."""

Layers = Sequence[tuple[Layer, bool]]
"""Layers as they were written, each with whether it was new."""


class Creator:
    """Makes models in `store`; one that is to be built on and is not there is fetched by `pull` first."""

    def __init__(self, store: Store, pull: Pulling) -> None:
        self._store = store
        self._pull = pull

    def create(self, call: Create) -> Iterator[Progress]:
        """Check a request; what comes back does the work, and tells how far it is.

        Raises:
            InvalidRequest, JobFailed: at once or on the way, in the order of wire-spec 6.4.
        """
        for path in [*(call.files or {}), *call.draft_files, *call.adapters]:
            if not is_inside(path):
                raise InvalidRequest("file path must be relative")
        for digest in [*(call.files or {}).values(), *call.draft_files.values(), *call.adapters.values()]:
            if not digest:
                raise InvalidRequest("invalid digest format")
        if call.draft_quantize and not call.draft_files:
            raise InvalidRequest("--draft-quantize requires a DRAFT model")
        return self._create(call, ModelName.parse(call.model))

    def _create(self, call: Create, name: ModelName) -> Iterator[Progress]:
        if call.draft_files or call.adapters:
            raise InvalidRequest("draft models and adapters are not supported")
        if call.source and self._is_remote(call):
            self._write(name, *self._remote(call))
            yield from (Progress("writing manifest"), Progress("success"))
            return
        if call.source:
            config, layers = yield from self._of_model(call)
        elif call.directory:
            config, layers = self._of_directory(Path(call.directory))
        elif call.files is not None:
            config, layers = yield from self._of_files(call.files, call)
        else:
            raise InvalidRequest("neither 'from' or 'files' was specified")
        written = self._write(name, *_dressed(config, layers, call, self._parameters(layers)))
        for layer, is_new in written:
            yield Progress(f"{'creating new' if is_new else 'using existing'} layer {layer.digest}")
        yield from (Progress("writing manifest"), Progress("success"))

    def _write(self, name: ModelName, config: Mapping[str, Any], parts: Sequence[Layer | Content]) -> Layers:
        try:
            return self._store.write(name, Recipe(config, parts)).layers
        except StoreError as error:
            raise JobFailed(str(error)) from error

    def _is_remote(self, call: Create) -> bool:
        return bool(call.remote_host) or Reference.parse(call.source).source is Source.CLOUD

    def _remote(self, call: Create) -> tuple[dict[str, Any], list[Layer | Content]]:
        """A model that lives on another server: nothing of it is here but a note."""
        host = remote_address(call.remote_host) if call.remote_host else CLOUD_HOST
        config = remote_config(call.source, host, checked_info(call.info))
        return _dressed(config, [], call, {})

    def _of_model(self, call: Create) -> "Generator[Progress, None, Base]":
        reference = Reference.parse(call.source)
        model = self._find(reference.name)
        if model is None:
            yield from self._pull(Pull(model=call.source))
            model = self._find(reference.name)
        if model is None:
            raise JobFailed(f"model '{call.source}' not found")
        if call.quantize:
            raise InvalidRequest("a model that was created already keeps its quantization; create one from its files")
        layers: list[Layer | Content] = [replace(layer, parent=model.name.display) for layer in model.layers]
        return dict(model.config), layers

    def _find(self, name: ModelName) -> StoredModel | None:
        try:
            return self._store.find(name)
        except StoreError as error:
            raise JobFailed(str(error)) from error

    def _of_files(self, files: Mapping[str, str], call: Create) -> "Generator[Progress, None, Base]":
        if any(name.endswith(".safetensors") for name in files):
            return (yield from self._of_safetensors(files, call))
        ggufs = [name for name in files if name.endswith(".gguf")] or [
            name for name, digest in files.items() if self._has_magic(digest)
        ]
        if not ggufs:
            raise InvalidRequest("unknown type")
        if len(ggufs) > 1:
            raise InvalidRequest("models of several GGUF files are not supported")
        return (yield from self._of_gguf(files[ggufs[0]], call))

    def _of_directory(self, directory: Path) -> "Base":
        try:
            config, reference = referred(directory)
        except NotAModel as error:
            raise InvalidRequest(str(error)) from error
        return config, [reference]

    def _has_magic(self, digest: str) -> bool:
        try:
            with self._store.blobs.path(check_digest(digest)).open("rb") as file:
                return file.read(len(MAGIC)) == MAGIC
        except (InvalidRequest, OSError):
            return False

    def _of_gguf(self, digest: str, call: Create) -> "Generator[Progress, None, Base]":
        yield Progress("parsing GGUF")
        path = self._blob(digest)
        try:
            header = GgufHeader.read(path)
        except NotGguf as error:
            raise InvalidRequest(str(error)) from error
        form = _form(call.quantize, header.file_type)
        checked_info(call.info)
        size = path.stat().st_size
        status = f"quantizing {header.file_type} model to {form}" if form else "validating GGUF model"
        for number in range(1, len(header.tensors) + 1):
            yield Progress(status, WHOLE_FILE, size, size * number // len(header.tensors))
        yield Progress("verifying conversion")
        config, layer = of_gguf(header, path)
        yield from self._made([layer], form)
        return _quantized(config, form), [layer]

    def _of_safetensors(self, files: Mapping[str, str], call: Create) -> "Generator[Progress, None, Base]":
        yield Progress("converting model")
        layers: list[Layer] = []
        for name, digest in files.items():
            path = self._blob(digest)
            media_type = TENSOR_TYPE if name.endswith(".safetensors") else JSON_TYPE
            canonical = f"sha256:{path.name.removeprefix('sha256-')}"
            layers.append(Layer(media_type, canonical, path.stat().st_size, name=name))
        plain = self._weights(layers, "")
        try:
            details = ModelDirectory.of_parts(plain.directory, plain.parts).details
        except NotAModel as error:
            raise InvalidRequest(str(error)) from error
        form = _form(call.quantize, {"float32": "F32", "float16": "F16"}.get(details.quantization_level, "BF16"))
        yield from self._made(layers, form)
        families = list(details.families)
        config = config_of("safetensors", details.family, families, details.parameter_size, details.quantization_level)
        return _quantized({**config, "capabilities": ["completion"]}, form), [*layers]

    def _made(self, layers: Sequence[Layer], form: str) -> Iterator[Progress]:
        """Make the directory of these weights, now and not when somebody waits for an answer."""
        try:
            yield from make_for_client(self._weights(layers, form), layers[0].digest)
        except MakingFailed as error:
            raise InvalidRequest(str(error)) from error

    def _weights(self, layers: Sequence[Layer], form: str) -> Weights:
        manifest = Manifest(Layer("", "", 0), tuple(layers))
        weights = Weights.of(manifest, form, self._store.blobs, self._store.converted)
        if weights is None:
            raise InvalidRequest("no files provided to convert")
        return weights

    def _blob(self, digest: str) -> Path:
        path = self._store.blobs.path(check_digest(digest))
        if not path.is_file():
            raise JobFailed(f"open {path}: no such file or directory")
        return path

    def _parameters(self, layers: Sequence[Layer | Content]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for layer in layers:
            if isinstance(layer, Layer) and layer.media_type == PARAMS_TYPE:
                found |= gojson.loads(self._store.blobs.read(layer.digest))
        return found


def _dressed(
    config: dict[str, Any], base: Sequence[Layer | Content], call: Create, parameters: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Layer | Content]]:
    """The layers to build on with what the request gives a model, in the reference's order."""
    if call.template:
        try:
            Template.parse(call.template)
        except TemplateError as error:
            raise InvalidRequest(f"template error: {error}") from error
    licenses = _licenses(call.license)
    merged = {**parameters, **call.parameters}
    new = [
        *([Content(TEMPLATE_TYPE, call.template.encode())] if call.template else []),
        *([Content(SYSTEM_TYPE, call.system.encode())] if call.system else []),
        *(Content(LICENSE_TYPE, text.encode()) for text in licenses),
        *([Content(PARAMS_TYPE, to_file(gojson.in_key_order(merged)))] if merged else []),
        *([Content(MESSAGES_TYPE, to_file([_turn(message) for message in call.messages]))] if call.messages else []),
    ]
    replaced = {content.media_type for content in new} - {LICENSE_TYPE}
    named = {"renderer": call.renderer, "parser": call.parser, "requires": call.requires}
    given = {key: value for key, value in named.items() if value}
    return {**config, **given}, [*(layer for layer in base if layer.media_type not in replaced), *new]


def _turn(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.content}


def _licenses(value: Any) -> list[str]:
    """One text or several; anything else in the words of Go's JSON."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise JobFailed(f"json: cannot unmarshal {gojson.kind(value)} into Go value of type []string")
    strange = next((entry for entry in value if not isinstance(entry, str)), None)
    if strange is not None:
        raise JobFailed(f"json: cannot unmarshal {gojson.kind(strange)} into Go value of type string")
    return value


def _form(wanted: str, present: str) -> str:
    """The form to bring the weights into; empty if they have it already, or none is wanted."""
    form = _UNITED.get(wanted.upper(), wanted.upper())
    if form and form not in (*FLOATS, *QUANTIZED_BITS):
        raise JobFailed(f"unsupported quantization type {form} - supported types are {_SUPPORTED}")
    if not form or form == present:
        return ""
    if present not in FLOATS:
        raise JobFailed("quantization is only supported for F16, BF16 and F32 models")
    return form


def _quantized(config: dict[str, Any], form: str) -> dict[str, Any]:
    return {**config, "file_type": form, QUANTIZE: form} if form else config
