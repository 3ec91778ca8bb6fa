"""`mlx-ollama pull`: a model from the hub or a registry. No server is needed; a running one has it at once."""

import argparse
import sys

from mlx_ollama.commands.common import Commands, library
from mlx_ollama.console.progress import Progress
from mlx_ollama.settings import Loaded
from mlx_ollama.types import Pull


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    pull = commands.add_parser("pull", parents=[common], help="fetch a model from the hub or a registry")
    pull.add_argument("model", metavar="MODEL", help="as qwen2.5:7b, org/repo, hf.co/org/repo:Q4_K_M, host/org/model")
    pull.add_argument("--insecure", action="store_true", help="ask a registry over plain HTTP")
    pull.set_defaults(run=_pull)


def _pull(arguments: argparse.Namespace, loaded: Loaded) -> int:
    with Progress(sys.stderr) as progress:
        for told in library(loaded).pull(Pull(model=arguments.model, insecure=arguments.insecure)):
            progress.tell(told.status, told.completed, told.total)
    return 0
