"""Users' own policies: found by name, checked, and put into the list of the built-in ones."""

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp

from mlx_ollama.policies.errors import Errors
from mlx_ollama.policy import Policy
from mlx_ollama.settings import SettingsError

OwnPolicy = Policy | Callable[..., Any] | str


def with_own(policies: Sequence[Middleware], own: Sequence[OwnPolicy], *, usually_before: str) -> list[Middleware]:
    """The list with the users' policies in it, in their order where they share a place.

    Those that say nothing of their place stand right before `usually_before`.

    Raises:
        SettingsError: with the place in `own`, for a name, options or an order that cannot be.
    """
    arranged = list(policies)
    for at, entry in enumerate(own):
        policy = entry if isinstance(entry, Policy) else Policy(entry)
        maker = _Maker(policy, f"policies[{at}] ({policy})")
        arranged.insert(_index(arranged, policy, maker.complain, usually_before), maker.middleware())
    return arranged


class _Maker:
    """Makes one policy; whatever is wrong with it is told with its place."""

    def __init__(self, policy: Policy, place: str) -> None:
        self._place = place
        self._options = policy.options
        self._make = self._found(policy.use) if isinstance(policy.use, str) else policy.use
        self.__name__ = getattr(self._make, "__name__", str(policy))
        self.after = policy.after
        self._check_options()

    def complain(self, reason: str) -> SettingsError:
        return SettingsError(f"{self._place}: {reason}")

    def middleware(self) -> Middleware:
        return Middleware(self, **self._options)

    def __call__(self, app: ASGIApp, /, **options: Any) -> ASGIApp:
        try:
            made = self._make(app, **options)
        # Whatever a constructor of somebody else's raises, the operator is to read which one it was.
        except Exception as error:
            raise self.complain(f"it cannot be made: {type(error).__name__}: {error}") from error
        if not (inspect.iscoroutinefunction(made) or inspect.iscoroutinefunction(getattr(made, "__call__", None))):  # noqa: B004 - it is not called here
            raise self.complain(
                "what it makes is no ASGI application: `async def __call__(self, scope, receive, send)`"
            )
        return made  # type: ignore[no-any-return]

    def _found(self, use: str) -> Callable[..., Any]:
        module_name, colon, name = use.partition(":")
        if not (module_name and colon and name):
            raise self.complain("a policy is named as package.module:Class")
        try:
            module = importlib.import_module(module_name)
        # A module of somebody else's can fail in any way while it is imported.
        except Exception as error:
            raise self.complain(f"{module_name} cannot be imported: {type(error).__name__}: {error}") from error
        found = getattr(module, name, None)
        if not callable(found):
            raise self.complain(f"{module_name} has no class {name}")
        return found  # type: ignore[no-any-return]

    def _check_options(self) -> None:
        if not callable(self._make):
            raise self.complain("neither a class nor a name of one")
        try:
            signature = inspect.signature(self._make)
        except (TypeError, ValueError):  # what is written in C may not tell
            return
        try:
            signature.bind(None, **self._options)
        except TypeError as error:
            known = ", ".join(list(signature.parameters)[1:]) or "none"
            raise self.complain(f"{error}; its options are: {known}") from error


def _index(
    arranged: Sequence[Middleware], policy: Policy, complain: Callable[[str], SettingsError], usually_before: str
) -> int:
    """Where in the list a policy goes."""
    names = [_name(middleware) for middleware in arranged]
    for name in filter(None, (policy.before, policy.after)):
        if name not in names:
            raise complain(f"there is no policy {name!r} to stand next to; there are {', '.join(names)}")
    if policy.before and policy.after and names.index(policy.after) >= names.index(policy.before):
        raise complain(f"it cannot stand after {policy.after} and before {policy.before}: they come in the other order")
    if policy.after and not policy.before:
        at = names.index(policy.after) + 1
        while at < len(arranged) and getattr(arranged[at].cls, "after", "") == policy.after:
            at += 1
    else:
        at = names.index(policy.before or usually_before)
    if at <= names.index(Errors.__name__):
        raise complain(f"it must stand after {Errors.__name__}, which tells callers what a policy raises")
    return at


def _name(middleware: Middleware) -> str:
    return str(getattr(middleware.cls, "__name__", middleware.cls))
