"""`mlx-ollama show`: what a model of the store is."""

import argparse
import sys

import orjson

from mlx_ollama.commands.common import Commands, library
from mlx_ollama.console.describe import model_text
from mlx_ollama.console.harmless import harmless
from mlx_ollama.dialects.ollama import encode_show
from mlx_ollama.settings import Loaded
from mlx_ollama.types import Show

_PARTS = {
    "license": "its license",
    "modelfile": "the Modelfile that would make it again",
    "parameters": "its parameters",
    "system": "its system message",
    "template": "its prompt template",
}


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    show = commands.add_parser("show", parents=[common], help="tell what a model is")
    show.add_argument("model", metavar="MODEL")
    part = show.add_mutually_exclusive_group()
    for name, meaning in _PARTS.items():
        part.add_argument(f"--{name}", action="store_const", const=name, dest="part", help=f"only {meaning}")
    show.add_argument("-v", "--verbose", action="store_true", help="metadata and tensors, too")
    show.set_defaults(run=_show)


def _show(arguments: argparse.Namespace, loaded: Loaded) -> int:
    call = Show(model=arguments.model, verbose=arguments.verbose)
    shown = orjson.loads(encode_show(library(loaded).show(call)))
    if arguments.part:
        text = str(shown.get(arguments.part, ""))
        text = text if text.endswith("\n") or not text else f"{text}\n"
    else:
        text = model_text(shown, verbose=arguments.verbose)
    sys.stdout.write(harmless(text, sys.stdout))
    return 0
