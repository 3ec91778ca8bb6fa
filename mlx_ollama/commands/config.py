"""`mlx-ollama config`: every setting and where its value came from."""

import argparse
import sys

from mlx_ollama.commands.common import Commands
from mlx_ollama.settings import Loaded, describe


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    config = commands.add_parser("config", parents=[common], help="print every setting, its default and its origin")
    config.set_defaults(run=_config)


def _config(arguments: argparse.Namespace, loaded: Loaded) -> int:
    rows = [("variable", "value", "default", "origin"), *describe(loaded)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for warning in loaded.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0
