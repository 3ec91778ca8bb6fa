"""`mlx-ollama create`: a model from a Modelfile."""

import argparse
import sys
from pathlib import Path

from mlx_ollama.commands.common import Commands, library, warn
from mlx_ollama.console.progress import Progress
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.models.building import Builder
from mlx_ollama.models.modelfile_parser import Modelfile, decoded
from mlx_ollama.settings import Loaded

DEFAULT_FILE = "Modelfile"


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    create = commands.add_parser("create", parents=[common], help="make a model from a Modelfile")
    create.add_argument("model", metavar="MODEL")
    create.add_argument(
        "-f", "--file", metavar="FILE", help=f"the Modelfile; {DEFAULT_FILE} of this folder unless given"
    )
    create.add_argument("-q", "--quantize", default="", metavar="TYPE", help="bring its weights into a form, as q4_K_M")
    create.add_argument("--draft-quantize", default="", metavar="TYPE", help="the same for a DRAFT model")
    create.set_defaults(run=_create)


def _create(arguments: argparse.Namespace, loaded: Loaded) -> int:
    modelfile, folder = _read(arguments.file)
    models = library(loaded)
    with Progress(sys.stderr) as progress:

        def add_file(path: Path) -> str:
            total = path.stat().st_size
            return models.store.blobs.add(path, lambda done: progress.tell(f"reading {path.name}", done, total))

        call = Builder(add_file, warn).call(
            arguments.model,
            modelfile,
            folder,
            quantize=arguments.quantize,
            draft_quantize=arguments.draft_quantize,
        )
        for told in models.create(call):
            progress.tell(told.status, told.completed, told.total)
    return 0


def _read(file: str | None) -> tuple[Modelfile, Path]:
    """A Modelfile, and the folder where its paths begin; a folder of weights needs no Modelfile."""
    path = Path(file or DEFAULT_FILE).expanduser()
    if path.is_file():
        return Modelfile.parse(decoded(path.read_bytes())), path.resolve().parent
    if file is not None:
        raise InvalidRequest(f"specified Modelfile wasn't found: {path}")
    here = Path.cwd()
    if not any(here.glob("*.safetensors")):
        raise InvalidRequest("no Modelfile or safetensors files found")
    return Modelfile.parse("FROM ."), here
