"""`mlx-ollama status`: how the server is, for people; scripts have the exit status, 1 for whatever is not healthy."""

import argparse
import sys
import time

from mlx_ollama.commands.common import Commands, add_server, complain
from mlx_ollama.console.harmless import harmless
from mlx_ollama.models.names import ModelName
from mlx_ollama.settings import Loaded, Settings

WATCH_SECONDS = 2.0
_CLEAR = "\x1b[H\x1b[2J"


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    status = commands.add_parser("status", parents=[common], help="print how the server is; status 1 if not healthy")
    status.add_argument("model", metavar="MODEL", nargs="?", help="only this model")
    add_server(status)
    status.add_argument("--watch", action="store_true", help="look again and again, until Ctrl-C")
    status.add_argument(
        "--interval",
        type=_seconds,
        default=WATCH_SECONDS,
        metavar="SECONDS",
        help=f"how long --watch waits in between ({WATCH_SECONDS:g})",
    )
    status.set_defaults(run=_status)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise ValueError(text)
    return seconds


def _status(arguments: argparse.Namespace, loaded: Loaded) -> int:
    model = ModelName.parse(arguments.model).display if arguments.model else None
    if not arguments.watch:
        return _once(loaded.settings, model, clear="")
    clear = _CLEAR if sys.stdout.isatty() else ""
    last = 1
    try:
        while True:
            last = _once(loaded.settings, model, clear=clear)
            sys.stdout.flush()
            time.sleep(arguments.interval)
    except KeyboardInterrupt:
        return last


def _once(settings: Settings, model: str | None, *, clear: str) -> int:
    # An HTTP client takes a while to load, and most commands need none.
    from mlx_ollama.console.health import Unreachable, report  # noqa: PLC0415 - see above

    try:
        found = report(settings, model)
    except Unreachable as error:
        return complain(str(error))
    print(f"{clear}{harmless(found.text, sys.stdout)}")
    return 0 if found.is_healthy else 1
