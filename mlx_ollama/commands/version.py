"""`mlx-ollama --version`: this program's, and what a running server says."""

import argparse
from collections.abc import Sequence
from typing import Any

from mlx_ollama import __version__
from mlx_ollama.commands.common import client, warn
from mlx_ollama.errors import MlxOllamaError
from mlx_ollama.settings import load


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-v", "--version", action=_Version, nargs=0, help="show this program's version and the server's"
    )


class _Version(argparse.Action):
    """Prints and ends, as `action="version"` does."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        print(f"mlx-ollama {__version__}")
        settings = load().settings
        with client(settings) as server:
            try:
                told = server.get("/api/version")
            except MlxOllamaError:
                warn(f"no server answers at {server.url}")
            else:
                print(f"the server at {server.url} speaks the API of Ollama {told.get('version')}")
        parser.exit()
