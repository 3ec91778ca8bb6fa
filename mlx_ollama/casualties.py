"""Which prompts were with a worker when it died: the one that kills workers is among them."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from weakref import WeakKeyDictionary, WeakValueDictionary

import orjson

from mlx_ollama.errors import Poisonous
from mlx_ollama.link import WorkerLink

MOST_DEATHS = 2
"""A prompt that was with so many workers when they died is not tried again..."""

REMEMBERED_SECONDS = 600.0
"""...for so long, and no new request with it is taken."""

REMEMBERED_PROMPTS = 1024


@dataclass(eq=False)
class Case:
    """A request as far as deaths are concerned. `key` is the digest of the weights that it is about, `asked` is what
    a worker gets to read.
    """

    key: str
    asked: object

    @cached_property
    def digest(self) -> str:
        """Tells prompts apart; empty for one that no worker can be sent."""
        try:
            asked = orjson.dumps(self.asked, default=float)
        except TypeError:
            return ""
        return sha256(self.key.encode() + asked).hexdigest()


class Casualties:
    """Counts the deaths at which a prompt was there, and lets those that were at one be tried one at a time.

    Everybody who was there is blamed: who of them it was, nobody can see. But since no two of them ever share a worker
    again, the next death is that of one of them alone, so the others live. What has been answered to its end is above
    suspicion. `clock` counts seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._present: WeakKeyDictionary[WorkerLink, set[Case]] = WeakKeyDictionary()
        self._deaths: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @contextmanager
    def present(self, case: Case, link: WorkerLink) -> Iterator[None]:
        """While this lasts, a death of the worker is one at which the prompt was there."""
        # Nothing can be sent to a worker that is dead already.
        cases = self._present.setdefault(link, set()) if link.alive else set()
        cases.add(case)
        try:
            yield
        finally:
            cases.discard(case)

    def died(self, link: WorkerLink) -> None:
        """Blame a worker's death on who was there; whoever hears of it first says so, the others may, too."""
        for digest in {case.digest for case in self._present.pop(link, set())}:
            count, _ = self._deaths.pop(digest, (0, 0.0))
            self._deaths[digest] = count + 1, self._clock()
        while len(self._deaths) > REMEMBERED_PROMPTS:
            self._deaths.popitem(last=False)

    def check(self, case: Case) -> int:
        """Let a prompt be tried; how many deaths it was at.

        Raises:
            Poisonous: if those are too many.
        """
        now = self._clock()
        while self._deaths and now - next(iter(self._deaths.values()))[1] >= REMEMBERED_SECONDS:
            self._deaths.popitem(last=False)
        # Digests of long prompts take their time, and are hardly ever needed.
        deaths, _ = self._deaths.get(case.digest, (0, 0.0)) if self._deaths else (0, 0.0)
        if deaths >= MOST_DEATHS:
            raise Poisonous(
                f"the model worker has stopped {MOST_DEATHS} times while it had this prompt, which is therefore not "
                f"tried again for {REMEMBERED_SECONDS / 60:g} minutes"
            )
        return deaths

    def acquit(self, case: Case) -> None:
        """It has been answered to its end."""
        if self._deaths:
            self._deaths.pop(case.digest, None)

    @asynccontextmanager
    async def turn(self, case: Case) -> AsyncIterator[None]:
        """While a prompt is tried; one that was at a death waits here while another such prompt of its model is tried.

        Whoever sends such a prompt, it is the same suspect: its client may have left, and asked again.

        Raises:
            Poisonous: if it was at too many.
        """
        if not self.check(case):
            yield
            return
        lock = self._turns.get(case.key)
        if lock is None:
            lock = self._turns[case.key] = asyncio.Lock()
        async with lock:
            self.check(case)
            yield
