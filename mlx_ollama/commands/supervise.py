"""`mlx-ollama supervise`: `serve`, and again whenever it dies."""

import argparse
import os
import sys

from mlx_ollama.commands.common import Commands
from mlx_ollama.commands.serve import add_flags, given_flags
from mlx_ollama.settings import Loaded


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    supervise = commands.add_parser(
        "supervise",
        parents=[common],
        help="serve, and start the server again whenever it dies or no longer answers",
        epilog="MLX_API_SUPERVISE_… settings say how often it looks and how often it tries; see mlx-ollama config.",
    )
    add_flags(supervise)
    supervise.set_defaults(run=_supervise)


def _supervise(arguments: argparse.Namespace, loaded: Loaded) -> int:
    # In this process' place, so that the one that stays for months does not hold what other commands need.
    os.execv(sys.executable, [sys.executable, "-m", "mlx_ollama.supervisor", *given_flags(arguments)])  # noqa: S606
