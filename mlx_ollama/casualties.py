"""Which prompts were with a worker when it died: the one that kills workers is among them."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

    A `victim` has been with a worker that died; it `has_proved` itself as soon as a worker has brought forth a part of
    its answer.
    """

    key: str
    asked: object
    victim: bool = False
    has_proved: bool = False

    @cached_property
    def digest(self) -> str:
        """Tells prompts apart; empty for one that no worker can be sent."""
        try:
            asked = orjson.dumps(self.asked, default=float)
        except TypeError:
            return ""
        return sha256(self.key.encode() + asked).hexdigest()


class Casualties:
    """Counts the deaths at which a prompt was there, and lets the victims of one go on one after the other.

    If a worker dies in which a victim has just tried again, it was probably that one, or somebody else of whom nothing
    has been heard in there either: those whose answers were going on already are not blamed. Else all are. What has
    been answered to its end is above suspicion. `clock` counts seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._present: WeakKeyDictionary[WorkerLink, set[Case]] = WeakKeyDictionary()
        self._deaths: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @contextmanager
    def present(self, case: Case, link: WorkerLink) -> Iterator[None]:
        """While this lasts, a death of the worker is one at which the prompt was there."""
        case.has_proved = False
        # Nothing can be sent to a worker that is dead already.
        cases = self._present.setdefault(link, set()) if link.alive else set()
        cases.add(case)
        try:
            yield
        finally:
            cases.discard(case)

    def died(self, link: WorkerLink) -> None:
        """Blame a worker's death on who was there; whoever hears of it first says so, the others may, too."""
        cases = self._present.pop(link, set())
        unproved = {case for case in cases if not case.has_proved}
        suspects = unproved if any(case.victim for case in unproved) else cases
        for digest in {case.digest for case in suspects}:
            count, _ = self._deaths.pop(digest, (0, 0.0))
            self._deaths[digest] = count + 1, self._clock()
        while len(self._deaths) > REMEMBERED_PROMPTS:
            self._deaths.popitem(last=False)

    def check(self, case: Case) -> None:
        """Let a prompt be tried.

        Raises:
            Poisonous: if it was there too often when a worker died.
        """
        now = self._clock()
        while self._deaths and now - next(iter(self._deaths.values()))[1] >= REMEMBERED_SECONDS:
            self._deaths.popitem(last=False)
        # Digests of long prompts take their time, and are hardly ever needed.
        if self._deaths and self._deaths.get(case.digest, (0, 0.0))[0] >= MOST_DEATHS:
            raise Poisonous(
                f"the model worker has stopped {MOST_DEATHS} times while it had this prompt, which is therefore not "
                f"tried again for {REMEMBERED_SECONDS / 60:g} minutes"
            )

    def acquit(self, case: Case) -> None:
        """It has been answered to its end."""
        if self._deaths:
            self._deaths.pop(case.digest, None)

    def turn(self, case: Case) -> asyncio.Lock:
        """Held by the victim that is trying again; one for each model."""
        lock = self._turns.get(case.key)
        if lock is None:
            lock = self._turns[case.key] = asyncio.Lock()
        return lock
