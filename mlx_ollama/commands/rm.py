"""`mlx-ollama rm`: models leave the store, and the memory of a running server."""

import argparse
from contextlib import suppress

from mlx_ollama.commands.common import Commands, add_server, client, complain, library
from mlx_ollama.errors import MlxOllamaError
from mlx_ollama.library import Library
from mlx_ollama.models.names import Reference
from mlx_ollama.settings import Loaded, Settings
from mlx_ollama.types import Delete


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    rm = commands.add_parser("rm", parents=[common], help="remove models")
    rm.add_argument("models", metavar="MODEL", nargs="+")
    add_server(rm)
    rm.set_defaults(run=_rm, more="models")


def _rm(arguments: argparse.Namespace, loaded: Loaded) -> int:
    models, status = library(loaded), 0
    for name in arguments.models:
        with suppress(MlxOllamaError):
            # Whatever is wrong with the name is told by what removes it.
            _unload(models, name, loaded.settings)
        try:
            models.delete(Delete(model=name))
        except MlxOllamaError as error:
            status = complain(str(error))
        else:
            print(f"deleted '{name}'")
    return status


def _unload(models: Library, name: str, settings: Settings) -> None:
    """Ask a server, if one answers, to let go of the model; it may have another of that name."""
    model = models.find(Reference.parse(name).name)
    if model is None:
        return
    with client(settings) as server:
        loaded = server.get("/api/ps").get("models") or []
        if any(resident["digest"] == model.digest for resident in loaded):
            server.post("/api/generate", {"model": name, "prompt": "", "keep_alive": 0, "stream": False})
