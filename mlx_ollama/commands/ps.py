"""`mlx-ollama ps`: the models in the memory of a running server."""

import argparse
import sys
import time

from mlx_ollama.commands.common import Commands, add_server, client
from mlx_ollama.console.describe import loaded_table
from mlx_ollama.settings import Loaded


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    ps = commands.add_parser("ps", parents=[common], help="list the models that a server has loaded")
    ps.add_argument("prefix", metavar="PREFIX", nargs="?", default="", help="only names that begin with it")
    add_server(ps)
    ps.set_defaults(run=_ps)


def _ps(arguments: argparse.Namespace, loaded: Loaded) -> int:
    with client(loaded.settings) as server:
        models = server.get("/api/ps").get("models") or []
    sys.stdout.write(loaded_table(models, arguments.prefix, time.time()))
    return 0
