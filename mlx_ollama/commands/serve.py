"""`mlx-ollama serve`: the server, until it is told to end."""

import argparse
import logging

from mlx_ollama import __version__
from mlx_ollama.commands.common import Commands, complain
from mlx_ollama.settings import DEVICES, LOG_LEVELS, PROFILES, Loaded, help_texts


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    helps = help_texts()
    serve = commands.add_parser("serve", parents=[common], help="serve the models of the store")
    serve.add_argument("--host", help=helps["host"])
    serve.add_argument("--port", type=int, help=helps["port"])
    serve.add_argument("--workers", type=int, help=helps["workers"])
    serve.add_argument("--keep-alive", help=helps["keep_alive"])
    serve.add_argument("--context-length", type=int, help=helps["context_length"])
    serve.add_argument("--device", choices=DEVICES, help=helps["device"])
    serve.add_argument("--origins", help=helps["origins"])
    serve.add_argument("--profile", choices=PROFILES, help=helps["profile"])
    serve.add_argument("--log-level", choices=LOG_LEVELS, help=helps["log_level"])
    serve.add_argument("--drain", help=helps["drain"])
    serve.set_defaults(run=_serve)


def _serve(arguments: argparse.Namespace, loaded: Loaded) -> int:
    # The server is the only command that needs Starlette and Hypercorn.
    from mlx_ollama.server import PortTaken, run  # noqa: PLC0415 - see above

    settings = loaded.settings
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    for warning in loaded.warnings:
        logging.getLogger(__name__).warning(warning)
    try:
        run(settings, lambda address: print(f"mlx-ollama {__version__} serves {address}", flush=True))
    except PortTaken as error:
        return complain(str(error))
    except OSError as error:
        return complain(f"cannot listen on {settings.host} port {settings.port}: {error}")
    return 0
