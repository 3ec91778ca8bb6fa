"""`mlx-ollama run`: one answer, or a conversation. A running server does the work."""

import argparse
from typing import Any

import orjson

from mlx_ollama.commands.common import Commands, add_server, client
from mlx_ollama.dialects.gotypes import THINK_LEVELS
from mlx_ollama.durations import parse_duration
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.settings import Loaded


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    run = commands.add_parser("run", parents=[common], help="ask a model, or talk with it")
    run.add_argument("model", metavar="MODEL")
    run.add_argument(
        "prompt", metavar="PROMPT", nargs="*", help="what to ask; what comes through a pipe stands before it"
    )
    run.add_argument("--verbose", action="store_true", help="times and tokens after each answer")
    run.add_argument("--format", help="json, or a JSON schema")
    run.add_argument(
        "--think", metavar="LEVEL", help="as --think=low: true, false, high, medium, low or max; alone: true"
    )
    run.add_argument("--hidethinking", action="store_true", help="do not show what a model thinks")
    run.add_argument("--keepalive", metavar="TIME", help="how long the model then stays loaded, as 5m")
    run.add_argument("--nowordwrap", action="store_true", help="break lines where they are full, not between words")
    run.add_argument("--dimensions", type=int, help="of an embedding model: how many numbers of the vector")
    run.add_argument(
        "--truncate", metavar="BOOL", help="of an embedding model: --truncate=false refuses texts too long"
    )
    add_server(run)
    run.set_defaults(run=_run, more="prompt")


def _run(arguments: argparse.Namespace, loaded: Loaded) -> int:
    # They bring the HTTP client and line editing, which other commands start without.
    from mlx_ollama.console.asking import Question, ask  # noqa: PLC0415 - see above
    from mlx_ollama.console.conversation import Manner  # noqa: PLC0415 - see above

    keep_alive = _keep_alive(arguments.keepalive)
    embedding = {
        "truncate": _truth("--truncate", arguments.truncate),
        "dimensions": arguments.dimensions,
        "keep_alive": keep_alive,
    }
    manner = Manner(
        format=_format(arguments.format),
        think=_think(arguments.think),
        keep_alive=keep_alive,
        hide_thinking=arguments.hidethinking,
        verbose=arguments.verbose,
        wordwrap=not arguments.nowordwrap,
    )
    given = {name: value for name, value in embedding.items() if value is not None}
    question = Question(arguments.model, arguments.prompt, manner, given)
    settings = loaded.settings
    with client(settings) as server:
        return ask(server, question, None if settings.nohistory else settings.history_file)


def _format(text: str | None) -> Any:
    if text in (None, "", "json"):
        return text or None
    try:
        schema = orjson.loads(text or "")
    except ValueError:
        schema = None
    if not isinstance(schema, dict):
        raise InvalidRequest(f"--format {text}: neither json nor a JSON schema")
    return schema


def _think(text: str | None) -> bool | str | None:
    if text is None or text in THINK_LEVELS:
        return text
    if text not in ("true", "false"):
        raise InvalidRequest(
            f"--think {text}: must be true, false, {', '.join(THINK_LEVELS[:-1])} or {THINK_LEVELS[-1]}"
        )
    return text == "true"


def _truth(flag: str, text: str | None) -> bool | None:
    if text not in (None, "true", "false"):
        raise InvalidRequest(f"{flag} {text}: must be true or false")
    return None if text is None else text == "true"


def _keep_alive(text: str | None) -> str | None:
    """Checked here: a server would tell it only with the first answer."""
    if text is not None:
        try:
            parse_duration(text)
        except ValueError as error:
            raise InvalidRequest(f"--keepalive: {error}") from error
    return text
