"""`mlx-ollama serve`: the server, until it is told to end."""

import argparse
import logging
from pathlib import Path

from mlx_ollama import __version__
from mlx_ollama.choosers import NotAChooser
from mlx_ollama.commands.common import Commands, complain
from mlx_ollama.lifeline import FLAG as LIFELINE_FLAG
from mlx_ollama.lifeline import Lifeline
from mlx_ollama.policies.eviction import chooser
from mlx_ollama.settings import PROFILES, Loaded, help_texts
from mlx_ollama.settings_check import DEVICES, LOG_FORMATS, LOG_LEVELS

PATHS = {"config", "home", "log_file"}
"""Flags that mean another file in another folder."""


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    serve = commands.add_parser("serve", parents=[common], help="serve the models of the store")
    add_flags(serve)
    serve.add_argument(LIFELINE_FLAG, type=int, help=argparse.SUPPRESS)
    serve.set_defaults(run=_serve)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The settings that `serve` takes as flags; commands that run it for others take them, too."""
    helps = help_texts()
    parser.add_argument("--host", help=helps["host"])
    parser.add_argument("--port", type=int, help=helps["port"])
    parser.add_argument("--workers", type=int, help=helps["workers"])
    parser.add_argument("--keep-alive", help=helps["keep_alive"])
    parser.add_argument("--context-length", type=int, help=helps["context_length"])
    parser.add_argument("--device", choices=DEVICES, help=helps["device"])
    parser.add_argument("--origins", help=helps["origins"])
    parser.add_argument("--profile", choices=PROFILES, help=helps["profile"])
    parser.add_argument("--log-level", choices=LOG_LEVELS, help=helps["log_level"])
    parser.add_argument("--log-format", choices=LOG_FORMATS, help=helps["log_format"])
    parser.add_argument("--log-file", metavar="FILE", help=helps["log_file"])
    parser.add_argument("--drain", help=helps["drain"])


def given_flags(arguments: argparse.Namespace) -> list[str]:
    """The flags of `serve` that were given, as `--name=value`, paths made absolute."""
    names = {"config", *help_texts()}
    given = {name: value for name, value in vars(arguments).items() if name in names and value is not None}
    for name in PATHS & given.keys():
        given[name] = Path(given[name]).expanduser().absolute()
    return [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]


def _serve(arguments: argparse.Namespace, loaded: Loaded) -> int:
    # The server is the only command that needs Starlette and Hypercorn.
    from mlx_ollama import logs  # noqa: PLC0415 - see above
    from mlx_ollama.server import PortTaken, run  # noqa: PLC0415

    settings = loaded.settings
    try:
        chooser(settings.eviction, settings.home)
    except NotAChooser as error:
        return complain(f"{loaded.origins['eviction'].source}: eviction: {error}", status=2)
    lifeline = Lifeline(arguments.lifeline) if arguments.lifeline is not None else None

    def announce(address: str) -> None:
        if lifeline is not None:
            # Its supervisor tells the world.
            lifeline.announce(address)
        else:
            print(f"mlx-ollama {__version__} serves {address}", flush=True)

    with logs.writing(settings):
        for warning in loaded.warnings:
            logging.getLogger(__name__).warning(warning)
        try:
            run(settings, announce, lifeline)
        except PortTaken as error:
            return complain(str(error))
        except OSError as error:
            return complain(f"cannot listen on {settings.host} port {settings.port}: {error}")
    return 0
