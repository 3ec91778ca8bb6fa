"""What the commands share: how they are declared, reach the store and a server, and complain."""

import argparse
import sys
from typing import TYPE_CHECKING, TypeAlias

from mlx_ollama.console.harmless import harmless
from mlx_ollama.library import Library, library_of
from mlx_ollama.models.store import StoredModel
from mlx_ollama.settings import Loaded, Settings
from mlx_ollama.settings_values import show

if TYPE_CHECKING:
    from mlx_ollama.console.client import Client

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - it has no public name

_MEBIBYTE = 1 << 20


def add_parameter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parameter", action="append", default=[], metavar="KEY=VALUE", help="a default option of the model"
    )


def add_server(parser: argparse.ArgumentParser) -> None:
    """Flags of a command that speaks with a server; they are the settings of one."""
    parser.add_argument("--host", help="address of the server")
    parser.add_argument("--port", type=int, help="port of the server")


def library(loaded: Loaded) -> Library:
    """The store of the settings; a running server sees at once what is done with it."""
    return library_of(loaded.settings)


def client(settings: Settings) -> "Client":
    """The server of the settings; nothing is sent yet."""
    # Half of a command's start would be the HTTP client, and most commands need none.
    from mlx_ollama.console.client import Client  # noqa: PLC0415 - see above

    return Client(settings.host, settings.port, settings.keys)


def registered(model: StoredModel) -> int:
    print(f"{model.name.display} is ready ({show(model.size // _MEBIBYTE)} MiB, {model.directory})")
    return 0


def warn(message: str) -> None:
    print(f"warning: {harmless(message, sys.stderr)}", file=sys.stderr)


def complain(message: str, *, status: int = 1) -> int:
    print(f"Error: {harmless(message, sys.stderr)}", file=sys.stderr)
    return status
