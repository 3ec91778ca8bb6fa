"""What the commands share: how they are declared, complain and show that something takes a while."""

import argparse
import sys
from typing import TypeAlias

from mlx_ollama.models.importing import Importer, Progress
from mlx_ollama.models.store import Store, StoredModel
from mlx_ollama.settings import Loaded, show

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - it has no public name

_MEBIBYTE = 1 << 20


def add_parameter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parameter", action="append", default=[], metavar="KEY=VALUE", help="a default option of the model"
    )


def importer(loaded: Loaded) -> Importer:
    return Importer(Store(loaded.settings.models), loaded.settings.converted, progress_bar())


def registered(model: StoredModel) -> int:
    print(f"{model.name.display} is ready ({show(model.size // _MEBIBYTE)} MiB, {model.directory})")
    return 0


def progress_bar() -> Progress:
    terminal = sys.stderr.isatty()
    last = ""

    def tell(status: str, completed: int, total: int) -> None:
        nonlocal last
        if terminal and total:
            print(f"\r\x1b[K{status} {100 * completed // total:3d} %", end="", file=sys.stderr, flush=True)
        if terminal and last and status != last:
            print(file=sys.stderr)
        last = status

    return tell


def complain(message: str, *, status: int = 1) -> int:
    print(f"Error: {message}", file=sys.stderr)
    return status
