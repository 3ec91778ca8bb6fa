"""Choosers that an operator names: classes with one method, which say what goes first when memory runs short."""

import logging
from collections.abc import Callable, Hashable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mlx_ollama.policy import look_in

logger = logging.getLogger(__name__)

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

_OURS = __name__.partition(".")[0] + "."


class Orders(Protocol[T]):
    """What all choosers can do."""

    def order(self, things: Sequence[T], /) -> Sequence[T]:
        """The things, the first to go first."""
        ...


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


def chosen(chooser: Orders[T], things: Sequence[T], key: Callable[[T], K], *, otherwise: Orders[T]) -> list[K]:
    """The keys of things in the order of a chooser, each once, and none of what it made up.

    It is an operator's own class: if it fails, the order is that of `otherwise`.
    """
    known = {key(thing) for thing in things}
    try:
        order = [key(thing) for thing in chooser.order(list(things))]
    # Whatever somebody's class may raise, memory is short all the same.
    except Exception:
        name, usual = type(chooser).__name__, type(otherwise).__name__
        logger.exception("the chooser %s failed; %s says what goes first", name, usual)
        order = [key(thing) for thing in otherwise.order(things)]
    return [at for at in dict.fromkeys(order) if at in known]
