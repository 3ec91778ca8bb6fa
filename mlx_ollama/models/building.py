"""What a Modelfile of this machine asks for: its files come into the store, the rest as it stands (wire-spec 12.1)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from mlx_ollama.errors import InvalidRequest
from mlx_ollama.models.directory import ModelDirectory, NotAModel
from mlx_ollama.models.modelfile_parser import Modelfile
from mlx_ollama.models.parameters import typed_parameters
from mlx_ollama.types import Create

Adding = Callable[[Path], str]
"""Brings a file into the store; its digest."""

_PATTERNS = ("*.gguf", "*.safetensors", "*.json", "*/config.json", "*.jinja", "*.txt", "tokenizer.model", "*.tiktoken")
"""What of a directory makes a model; GGUF files, where there are any, make it alone."""

_PATH_BEGINNINGS = ("/", "./", "../", "~")
_FILE_ENDINGS = (".gguf", ".safetensors")


class Builder:
    """Turns Modelfiles into calls. `add` is told every file that becomes a part, `warn` what is left out."""

    def __init__(self, add: Adding, warn: Callable[[str], None]) -> None:
        self._add = add
        self._warn = warn

    def call(self, name: str, modelfile: Modelfile, folder: Path, *, quantize: str, draft_quantize: str) -> Create:
        """The call that makes `name`; paths in the Modelfile begin at `folder`.

        An MLX directory is referred to where it lies, unless its weights are to be brought into another form.

        Raises:
            InvalidRequest: for a parameter, or a path that leads nowhere.
            OSError: if a file cannot be read or kept.
        """
        local, named = _sorted(modelfile.all("from"), folder)
        drafts, _ = _sorted(modelfile.all("draft"), folder)
        adapters = [_existing(value, folder) for value in modelfile.all("adapter")[-1:]]
        parameters = typed_parameters(modelfile.parameters, self._warn)
        directory = local[0] if len(local) == 1 and not quantize and _is_model(local[0]) else None
        return Create(
            model=name,
            source=named,
            files=self._added(local) if local and directory is None else None,
            directory=str(directory or ""),
            adapters=self._added(adapters),
            draft_files=self._added(drafts),
            draft_quantize=draft_quantize,
            template=modelfile.last("template"),
            system=modelfile.last("system"),
            license=list(modelfile.all("license")) or None,
            parameters=parameters,
            messages=modelfile.messages,
            quantize=quantize,
            renderer=modelfile.last("renderer"),
            parser=modelfile.last("parser"),
            requires=modelfile.last("requires"),
        )

    def _added(self, paths: Sequence[Path]) -> Mapping[str, str]:
        return {name: self._add(path) for place in paths for name, path in _parts(place)}


def _sorted(values: Sequence[str], folder: Path) -> tuple[list[Path], str]:
    """Values that are there as files or directories, and the last of those that name a model."""
    local, named = [], ""
    for value in values:
        path = _path(value, folder)
        if path.exists():
            local.append(path.resolve())
        elif value.startswith(_PATH_BEGINNINGS) or value.endswith(_FILE_ENDINGS):
            _existing(value, folder)
        else:
            named = value
    return local, named


def _existing(value: str, folder: Path) -> Path:
    path = _path(value, folder)
    if not path.exists():
        raise InvalidRequest(f"{path}: no such file or directory")
    return path.resolve()


def _path(value: str, folder: Path) -> Path:
    try:
        return folder / Path(value).expanduser()
    except RuntimeError:  # ~somebody
        return folder / value


def _is_model(path: Path) -> bool:
    try:
        ModelDirectory.read(path)
    except NotAModel:
        return False
    return True


def _parts(place: Path) -> Iterator[tuple[str, Path]]:
    """The files of a model, by name."""
    if place.is_file():
        yield place.name, place
        return
    patterns = _PATTERNS[:1] if any(place.glob(_PATTERNS[0])) else _PATTERNS
    found = sorted({path for pattern in patterns for path in place.glob(pattern) if path.is_file()})
    if not found:
        raise InvalidRequest(f"no Modelfile or safetensors files found in {place}")
    for path in found:
        if not any(path.resolve().is_relative_to(root) for root in _roots(place)):
            raise InvalidRequest(f"insecure path: {path}")
        yield str(path.relative_to(place)), path


def _roots(place: Path) -> tuple[Path, ...]:
    """Where links in a directory may lead: into itself, and of a Hugging Face snapshot to its files."""
    return (place, place.parents[1] / "blobs") if place.parent.name == "snapshots" else (place,)
