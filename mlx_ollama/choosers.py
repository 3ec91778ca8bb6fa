"""Choosers that an operator names: classes with one method, which say what goes first when memory runs short."""

from importlib import import_module
from pathlib import Path
from typing import Any

from mlx_ollama.policy import look_in

_OURS = __name__.partition(".")[0] + "."


class NotAChooser(ValueError):
    """What a setting names is no chooser; the message says why."""


def made(named: str, argument: str, home: Path | None = None) -> Any:
    """An object of the class `package.module:Class`, which is made without arguments and has `order(argument)`.

    It may lie in `home` if it is not one of ours.

    Raises:
        NotAChooser: if there is no such class, or it has no `order`, or cannot be made.
    """
    if home is not None and not named.startswith(_OURS):
        look_in(home)
    module, colon, name = named.partition(":")
    if not (module and colon and name):
        raise NotAChooser(f"{named!r} is not of the form package.module:Class")
    try:
        chooser = getattr(import_module(module), name)()
    # Whatever importing and making somebody's class may raise, the operator shall read it.
    except Exception as error:
        raise NotAChooser(f"{named} cannot be used: {type(error).__name__}: {error}") from error
    if not callable(getattr(chooser, "order", None)):
        raise NotAChooser(f"{named} has no method order({argument})")
    return chooser
