"""`mlx-ollama cp`: a second name for a model."""

import argparse

from mlx_ollama.commands.common import Commands, library
from mlx_ollama.settings import Loaded
from mlx_ollama.types import Copy


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    cp = commands.add_parser("cp", parents=[common], help="give a model a second name")
    cp.add_argument("source", metavar="SOURCE")
    cp.add_argument("destination", metavar="DESTINATION")
    cp.set_defaults(run=_cp)


def _cp(arguments: argparse.Namespace, loaded: Loaded) -> int:
    library(loaded).copy(Copy(model=arguments.source, destination=arguments.destination))
    print(f"copied '{arguments.source}' to '{arguments.destination}'")
    return 0
