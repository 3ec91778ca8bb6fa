"""`mlx-ollama list`: the models of the store."""

import argparse
import sys
import time

import orjson

from mlx_ollama.commands.common import Commands, library
from mlx_ollama.console.describe import models_table
from mlx_ollama.dialects.ollama import encode_tags
from mlx_ollama.settings import Loaded


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    listing = commands.add_parser("list", aliases=["ls"], parents=[common], help="list the models of the store")
    listing.add_argument("prefix", metavar="PREFIX", nargs="?", default="", help="only names that begin with it")
    listing.set_defaults(run=_list)


def _list(arguments: argparse.Namespace, loaded: Loaded) -> int:
    models = orjson.loads(encode_tags(library(loaded).list()))["models"]
    sys.stdout.write(models_table(models, arguments.prefix, time.time()))
    return 0
