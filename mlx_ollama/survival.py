"""Requests outlive the workers that they are with: what was begun is gone on with in the next one."""

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import TypeAlias

from mlx_ollama.casualties import Case, Casualties
from mlx_ollama.errors import WorkerDied
from mlx_ollama.memory.estimate import Demand
from mlx_ollama.models.store import StoredModel
from mlx_ollama.pool import Pool
from mlx_ollama.resident import Lease
from mlx_ollama.types import Delta, Done, Event, Leased, Recalled, Usage

logger = logging.getLogger(__name__)

Ask: TypeAlias = Callable[[Lease, tuple[int, ...]], AsyncGenerator[Event | Recalled, None]]
"""Asks a worker for an answer, of which the tokens are given that are known already."""


class Survival:
    """Has requests tried again when their worker has died under them, unless they are what it died of."""

    def __init__(self, pool: Pool, casualties: Casualties | None = None) -> None:
        self._pool = pool
        self._casualties = casualties or Casualties()

    def request(self, model: StoredModel, keep_alive: float | None, demand: Demand | None, asked: object) -> "Request":
        """One that begins. `asked` is what a worker will read for it; the rest is as in `Pool.lease`."""
        case = Case(model.weights_digest, asked)
        return Request(self._pool, self._casualties, model=model, keep_alive=keep_alive, demand=demand, case=case)


class Request:
    """One request, through as many workers as it takes. Made by `Survival.request`.

    Work goes into `attempt`, again and again until it has come to its end:

        while True:
            async with request.attempt() as lease:
                return await work(lease)

    Want of memory is no reason to try again: what has taken it would take it once more.
    """

    def __init__(
        self,
        pool: Pool,
        casualties: Casualties,
        *,
        model: StoredModel,
        keep_alive: float | None,
        demand: Demand | None,
        case: Case,
    ) -> None:
        self._pool, self._casualties, self._case = pool, casualties, case
        self._model, self._keep_alive, self._demand = model, keep_alive, demand
        self._is_victim = False
        self._is_heard_of = False

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[Lease]:
        """A worker to work with. If it dies, the block just ends; if all went well, it is left from inside.

        Raises:
            Poisonous: if this prompt was with too many workers that died.
            MlxOllamaError: as `Pool.lease` does.
        """
        async with (
            self._casualties.turn(self._case),
            self._pool.lease(self._model, self._keep_alive, self._demand) as lease,
        ):
            self._is_heard_of = False
            with self._casualties.present(self._case, lease.link):
                try:
                    yield lease
                    self._casualties.acquit(self._case)
                except WorkerDied as error:
                    self._casualties.died(lease.link)
                    self._is_victim = True
                    logger.warning("a request of %s has lost its worker: %s", self._model.name.display, error)
                    self._casualties.check(self._case)

    def goes_on(self, known: int = 0) -> None:
        """Its worker has brought forth something. `known` tokens of the answer came from others."""
        if self._is_victim and not self._is_heard_of:
            self._pool.tally.tried_again += 1
            self._pool.tally.resumed += known > 0
            logger.warning("%s goes on with a request in a new worker after %d tokens", self._model.name.display, known)
        self._is_heard_of = True

    async def events(self, ask: Ask) -> AsyncGenerator[Event | Leased, None]:
        """An answer, `Leased` in front; whoever reads it does not see where one worker ends and another begins.

        Raises:
            MlxOllamaError: as `attempt` does, and what `ask` raises.
        """
        answer = _Answer()
        while True:
            async with self.attempt() as lease:
                if answer.is_new(Leased):
                    yield Leased()
                answer.is_asked()
                async with aclosing(ask(lease, tuple(answer.tokens))) as events:
                    async for event in events:
                        if isinstance(event, Recalled):
                            if answer.is_new(Recalled):
                                yield event
                            continue
                        self.goes_on(len(answer.tokens))
                        if isinstance(event, Delta):
                            answer.grows(event)
                            lease.reached((self._demand.prompt if self._demand else 0) + len(answer.tokens))
                        yield answer.timed(event) if self._is_victim else event
                    return


class _Answer:
    """What is known of an answer, whoever it came from. Times are in nanoseconds."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._asked = 0
        self._begun = 0
        self._told: set[type] = set()

    def is_new(self, word: type) -> bool:
        """Whether a word to the server is said for the first time."""
        is_new = word not in self._told
        self._told.add(word)
        return is_new

    def is_asked(self) -> None:
        self._asked = self._asked or time.monotonic_ns()

    def grows(self, piece: Delta) -> None:
        self.tokens += piece.tokens
        self._begun = self._begun or time.monotonic_ns()

    def timed(self, event: Event) -> Event:
        """The end of an answer that several workers have had a part in: none of them knows how long it took."""
        if not isinstance(event, Done) or not isinstance(event.usage, Usage) or not self._begun:
            return event
        times = {"prompt_ns": self._begun - self._asked, "eval_ns": time.monotonic_ns() - self._begun}
        return replace(event, usage=replace(event.usage, **{name: max(1, time) for name, time in times.items()}))
