"""`mlx-ollama demo` and `mlx-ollama import`: models that lie on this machine already."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_ollama.commands.common import Commands, add_parameter, registered
from mlx_ollama.console.progress import Progress
from mlx_ollama.models.importing import DEMO_NAME, Extras, Importer, ImportFailed, parse_parameters
from mlx_ollama.models.names import ModelName
from mlx_ollama.models.store import Store
from mlx_ollama.settings import Loaded


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    demo = commands.add_parser("demo", parents=[common], help=f"register the demo model {DEMO_NAME}")
    add_parameter(demo)
    demo.set_defaults(run=_demo)

    importing = commands.add_parser("import", parents=[common], help="register a model directory or a GGUF file")
    importing.add_argument("name", metavar="NAME")
    importing.add_argument("path", metavar="PATH", type=Path)
    importing.add_argument("--template", type=Path, metavar="FILE", help="a TEMPLATE in Go's template language")
    importing.add_argument("--system", default="", metavar="TEXT", help="the model's SYSTEM message")
    add_parameter(importing)
    importing.set_defaults(run=_import)


def _demo(arguments: argparse.Namespace, loaded: Loaded) -> int:
    parameters = parse_parameters(arguments.parameter)
    with _importer(loaded) as importer:
        model = importer.import_demo(parameters)
    return registered(model)


def _import(arguments: argparse.Namespace, loaded: Loaded) -> int:
    try:
        template = arguments.template.read_text(encoding="utf-8") if arguments.template else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ImportFailed(f"cannot read the template: {error}") from error
    extras = Extras(template, arguments.system, parse_parameters(arguments.parameter))
    name = ModelName.parse(arguments.name)
    with _importer(loaded) as importer:
        model = importer.import_path(name, arguments.path, extras)
    return registered(model)


@contextmanager
def _importer(loaded: Loaded) -> Iterator[Importer]:
    with Progress(sys.stderr) as progress:
        settings = loaded.settings
        yield Importer(Store(settings.models, settings.converted), settings.converted, progress.tell)
