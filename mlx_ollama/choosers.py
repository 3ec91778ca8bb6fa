"""Choosers that an operator names: classes with one method, which say what goes first when memory runs short."""

from importlib import import_module
from typing import Any


class NotAChooser(ValueError):
    """What a setting names is no chooser; the message says why."""


def made(named: str, argument: str) -> Any:
    """An object of the class `package.module:Class`, which is made without arguments and has `order(argument)`.

    Raises:
        NotAChooser: if there is no such class, or it has no `order`, or cannot be made.
    """
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
