"""The command `mlx-ollama`. It loads neither mlx nor the server until a command needs them."""

import argparse
import os
import sys
from collections.abc import Sequence

from mlx_ollama.commands import (
    adopt,
    config,
    cp,
    create,
    importing,
    listing,
    ps,
    pull,
    rm,
    run,
    serve,
    service,
    show,
    status,
    stop,
    supervise,
    version,
)
from mlx_ollama.commands.common import complain
from mlx_ollama.errors import MlxOllamaError
from mlx_ollama.models.importing import ImportFailed
from mlx_ollama.models.store import StoreError
from mlx_ollama.settings import SettingsError, help_texts, load

COMMANDS = (
    *(serve, supervise, service, status),
    *(importing, pull, adopt, listing, show, create, cp, rm),
    *(run, ps, stop, config),
)
"""In the order in which `--help` lists them."""

ALONE = {"--think": "--think=true", "--truncate": "--truncate=true"}
"""Flags that take a value only with `=`, as Ollama's do: what follows one is an argument."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, 2 for bad usage, 1 for what went wrong."""
    try:
        arguments = _parsed(_parser(), sys.argv[1:] if argv is None else argv)
        # A flag that is named like a setting is that setting.
        flags = {name: value for name, value in vars(arguments).items() if name == "config" or name in help_texts()}
        return int(arguments.run(arguments, load(flags)))
    except SettingsError as error:
        return complain(str(error), status=2)
    except BrokenPipeError:
        # Whoever read what we write has enough; what is left must not be complained about at the very end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ImportFailed, StoreError, MlxOllamaError, OSError) as error:
        return complain(str(error))
    except KeyboardInterrupt:
        return 130


def _parsed(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Flags may stand anywhere, also between arguments that can be many; those after one are left over by argparse."""
    arguments, left = parser.parse_known_args([ALONE.get(word, word) for word in argv])
    many = getattr(arguments, "more", None)
    plain = left[left.index("--") + 1 :] if "--" in left else []
    rest = left[: left.index("--")] if "--" in left else left
    if rest and (many is None or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if many is not None:
        setattr(arguments, many, [*getattr(arguments, many), *rest, *plain])
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlx-ollama", description="An Ollama-compatible server on Apple's MLX.")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", metavar="FILE", help="TOML file of settings")
    common.add_argument("--home", metavar="DIR", help=help_texts()["home"])
    version.add(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add(commands, common)
    return parser
