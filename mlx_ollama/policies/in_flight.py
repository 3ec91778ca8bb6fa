"""How many inference requests may be in the house at all: those that run, wait, and are still being read."""

from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from mlx_ollama.policies.concurrency import Slots

MARGIN = 5
"""Beyond what runs and waits so many may be there to be read and refused, or to unload a model."""


class Crowd:
    """How many inference requests are in the house, and what `slots` has room for, with a margin."""

    def __init__(self, slots: Slots) -> None:
        self.most = slots.most + slots.queue + MARGIN
        self.active = 0
        self._slots = slots

    def enter(self) -> None:
        """Let one in.

        Raises:
            Overloaded: if the house is full.
        """
        if self.active >= self.most:
            raise self._slots.overloaded(self._slots.bound)
        self.active += 1

    def leave(self) -> None:
        self.active -= 1


class InFlightCap:
    """Refuses inference requests that are too many before their bodies are read. `paths` are those of inference.

    Raises:
        Overloaded: as `Crowd` says.
    """

    def __init__(self, app: ASGIApp, *, crowd: Crowd, paths: Collection[str]) -> None:
        self.app = app
        self._crowd = crowd
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self._paths:
            await self.app(scope, receive, send)
            return
        self._crowd.enter()
        try:
            await self.app(scope, receive, send)
        finally:
            self._crowd.leave()
