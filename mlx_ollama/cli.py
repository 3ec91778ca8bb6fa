"""The command `mlx-ollama`. It loads neither mlx nor the server until a command needs them."""

import argparse
from collections.abc import Sequence

from mlx_ollama import __version__
from mlx_ollama.commands import config, importing, serve, service, status, supervise
from mlx_ollama.commands.common import complain
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.models.importing import ImportFailed
from mlx_ollama.models.store import StoreError
from mlx_ollama.settings import SettingsError, help_texts, load

COMMANDS = (serve, supervise, service, status, importing, config)
"""In the order in which `--help` lists them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, 2 for bad usage, 1 for what went wrong."""
    arguments = _parser().parse_args(argv)
    try:
        # A flag that is named like a setting is that setting.
        flags = {name: value for name, value in vars(arguments).items() if name == "config" or name in help_texts()}
        return int(arguments.run(arguments, load(flags)))
    except SettingsError as error:
        return complain(str(error), status=2)
    except (ImportFailed, StoreError, InvalidRequest, OSError) as error:
        return complain(str(error))
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlx-ollama", description="An Ollama-compatible server on Apple's MLX.")
    parser.add_argument("--version", action="version", version=f"mlx-ollama {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", metavar="FILE", help="TOML file of settings")
    common.add_argument("--home", metavar="DIR", help=help_texts()["home"])
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add(commands, common)
    return parser
