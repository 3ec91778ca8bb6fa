"""`mlx-ollama stop`: a loaded model leaves memory."""

import argparse

from mlx_ollama.commands.common import Commands, add_server, client
from mlx_ollama.errors import ModelNotFound
from mlx_ollama.settings import Loaded


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    stop = commands.add_parser("stop", parents=[common], help="unload a model")
    stop.add_argument("model", metavar="MODEL")
    add_server(stop)
    stop.set_defaults(run=_stop)


def _stop(arguments: argparse.Namespace, loaded: Loaded) -> int:
    from mlx_ollama.console.client import NOT_FOUND, Refused  # noqa: PLC0415 - brings the HTTP client

    try:
        with client(loaded.settings) as server:
            server.post("/api/generate", {"model": arguments.model, "prompt": "", "keep_alive": 0, "stream": False})
    except Refused as error:
        if error.status != NOT_FOUND:
            raise
        raise ModelNotFound(f"couldn't find model {arguments.model!r} to stop") from error
    return 0
