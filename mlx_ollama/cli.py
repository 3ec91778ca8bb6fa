"""The command `mlx-ollama`. It loads neither mlx nor the server until a command needs them."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from mlx_ollama import __version__
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.models.importing import DEMO_NAME, Extras, Importer, ImportFailed, Progress, parse_parameters
from mlx_ollama.models.names import ModelName
from mlx_ollama.models.store import Store, StoredModel, StoreError
from mlx_ollama.settings import DEVICES, LOG_LEVELS, Loaded, SettingsError, describe, help_texts, load, show

_MEBIBYTE = 1 << 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, 2 for bad usage, 1 for what went wrong."""
    arguments = _parser().parse_args(argv)
    try:
        loaded = load(_flags(arguments))
        return int(arguments.run(arguments, loaded))
    except SettingsError as error:
        return _complain(str(error), status=2)
    except (ImportFailed, StoreError, InvalidRequest) as error:
        return _complain(str(error))
    except OSError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    helps = help_texts()
    parser = argparse.ArgumentParser(prog="mlx-ollama", description="An Ollama-compatible server on Apple's MLX.")
    parser.add_argument("--version", action="version", version=f"mlx-ollama {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", metavar="FILE", help="TOML file of settings")
    common.add_argument("--home", metavar="DIR", help=helps["home"])
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", parents=[common], help="serve the models of the store")
    serve.add_argument("--host", help=helps["host"])
    serve.add_argument("--port", type=int, help=helps["port"])
    serve.add_argument("--workers", type=int, help=helps["workers"])
    serve.add_argument("--keep-alive", help=helps["keep_alive"])
    serve.add_argument("--context-length", type=int, help=helps["context_length"])
    serve.add_argument("--device", choices=DEVICES, help=helps["device"])
    serve.add_argument("--origins", help=helps["origins"])
    serve.add_argument("--log-level", choices=LOG_LEVELS, help=helps["log_level"])
    serve.add_argument("--drain", help=helps["drain"])
    serve.set_defaults(run=_serve)

    demo = commands.add_parser("demo", parents=[common], help=f"register the demo model {DEMO_NAME}")
    _add_parameter(demo)
    demo.set_defaults(run=_demo)

    importing = commands.add_parser("import", parents=[common], help="register a model directory or a GGUF file")
    importing.add_argument("name", metavar="NAME")
    importing.add_argument("path", metavar="PATH", type=Path)
    importing.add_argument("--template", type=Path, metavar="FILE", help="a TEMPLATE in Go's template language")
    importing.add_argument("--system", default="", metavar="TEXT", help="the model's SYSTEM message")
    _add_parameter(importing)
    importing.set_defaults(run=_import)

    config = commands.add_parser("config", parents=[common], help="print every setting, its default and its origin")
    config.set_defaults(run=_config)
    return parser


def _add_parameter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parameter", action="append", default=[], metavar="KEY=VALUE", help="a default option of the model"
    )


def _flags(arguments: argparse.Namespace) -> dict[str, object]:
    names = ("config", "home", "host", "port", "workers", "keep_alive", "context_length", "device", "origins")
    return {name: getattr(arguments, name, None) for name in (*names, "log_level", "drain")}


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
        return _complain(str(error))
    except OSError as error:
        return _complain(f"cannot listen on {settings.host} port {settings.port}: {error}")
    return 0


def _demo(arguments: argparse.Namespace, loaded: Loaded) -> int:
    return _registered(_importer(loaded).import_demo(parse_parameters(arguments.parameter)))


def _import(arguments: argparse.Namespace, loaded: Loaded) -> int:
    try:
        template = arguments.template.read_text(encoding="utf-8") if arguments.template else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ImportFailed(f"cannot read the template: {error}") from error
    extras = Extras(template, arguments.system, parse_parameters(arguments.parameter))
    name = ModelName.parse(arguments.name)
    return _registered(_importer(loaded).import_path(name, arguments.path, extras))


def _config(arguments: argparse.Namespace, loaded: Loaded) -> int:
    rows = [("variable", "value", "default", "origin"), *describe(loaded)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for warning in loaded.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def _importer(loaded: Loaded) -> Importer:
    return Importer(Store(loaded.settings.models), loaded.settings.converted, _progress_bar())


def _registered(model: StoredModel) -> int:
    print(f"{model.name.display} is ready ({show(model.size // _MEBIBYTE)} MiB, {model.directory})")
    return 0


def _progress_bar() -> Progress:
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


def _complain(message: str, *, status: int = 1) -> int:
    print(f"Error: {message}", file=sys.stderr)
    return status
