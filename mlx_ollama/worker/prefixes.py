"""What was read before and need not be read again: the beginnings of prompts, within a budget of bytes."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mlx_ollama.choosers import chosen
from mlx_ollama.worker.kv import Cache, can_shorten, copied, settle, size_of
from mlx_ollama.worker.prefix_choice import Chooser, LeastRecentlyUsed, Remembered

logger = logging.getLogger(__name__)

FEWEST_TOKENS = 16
"""Shorter beginnings are not worth it: short prompts that wait together are read in one pass, but only whole."""

WORTHWHILE_TOKENS = 64
"""From here on a beginning is worth it however long the rest is; below, if it is half of the prompt."""

MOST_ENTRIES = 500
"""However small they are: looking for the next to go takes longer the more there are."""

LATEST = 8
"""A prompt that begins like none is compared with so many, only to tell where it differs."""

Ids: TypeAlias = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Difference:
    """Where a prompt parts from the most similar one: the place, and the tokens there."""

    at: int
    was: int
    now: int


@dataclass(frozen=True)
class Recollection:
    """A cache of the first `length` tokens, free to be written to; None for nothing.

    `difference` is None where there is no prompt to compare with, or it ended before it could differ.
    """

    cache: Cache | None
    length: int
    difference: Difference | None


@dataclass(eq=False)
class _Entry:
    key: str
    ids: Ids
    cache: Cache
    size: int
    used: float
    can_shorten: bool
    uses: int = field(default=0)

    def usable(self, common: int) -> int:
        """How many of `common` tokens a prompt can take over."""
        return common if self.can_shorten or common == len(self.ids) else 0


class Prefixes:
    """Caches by their tokens, for one model. Several conversations are remembered side by side.

    A `key` stands for what else must be the same: tokens under one are never used under another. Whoever recalls a
    cache gets a copy, and whoever keeps one must not write to it any more. `budget` is in bytes, 0 to remember
    nothing.

    Looking through the entries that begin with the same few tokens takes a few microseconds each, whatever their
    length; a tree of tokens would hold a Python object for every token instead.
    """

    def __init__(
        self, budget: int, chooser: Chooser | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._budget = budget
        self._chooser = chooser or LeastRecentlyUsed()
        self._clock = clock
        self._entries: dict[tuple[str, bytes], list[_Entry]] = {}
        self.size = 0

    @property
    def is_on(self) -> bool:
        return self._budget > 0

    def __len__(self) -> int:
        return sum(map(len, self._entries.values()))

    def recall(self, key: str, tokens: Sequence[int], *, is_used: bool = True) -> Recollection:
        """The longest known beginning of a prompt, its last token never included: decoding starts with that.

        Whoever only wants to know of it says that it `is_used` not: it counts as often as it was of use.
        """
        if not self._entries:
            return Recollection(None, 0, None)
        ids = np.array(tokens, dtype=np.uint32)
        alike = [(common_length(entry.ids, ids), entry) for entry in self._entries.get(_place(key, ids), ())]
        if not alike:
            return Recollection(
                None, 0, _difference(((common_length(late.ids, ids), late) for late in self._late(key)), ids)
            )
        length, best = max(((entry.usable(min(common, len(ids) - 1)), entry) for common, entry in alike), key=_first)
        difference = _difference(alike, ids)
        if length < FEWEST_TOKENS or (length < WORTHWHILE_TOKENS and 2 * length < len(ids)):
            return Recollection(None, 0, difference)
        if is_used:
            best.used, best.uses = self._clock(), best.uses + 1
        return Recollection(copied(best.cache, without=len(best.ids) - length), length, difference)

    def keep(self, key: str, tokens: Sequence[int], cache: Cache) -> None:
        """Remember the cache of these tokens; what no longer fits is forgotten.

        It never raises: an answer is worth more than its memory.
        """
        if len(tokens) < FEWEST_TOKENS or not self.is_on:
            return
        try:
            settle([cache])
            ids = np.array(tokens, dtype=np.uint32)
            self._add(_Entry(key, ids, cache, size_of(cache) + ids.nbytes, self._clock(), can_shorten(cache)))
        # Caches are strangers' code, and there may be no memory.
        except Exception:
            logger.exception("a prompt could not be remembered")

    def release(self) -> int:
        """Forget everything; the bytes that were held. Answers under way have caches of their own."""
        freed, self.size = self.size, 0
        self._entries.clear()
        return freed

    def _add(self, new: _Entry) -> None:
        if new.size > self._budget:
            return
        for entry in list(self._entries.get(_place(new.key, new.ids), ())):
            common = common_length(entry.ids, new.ids)
            if common == len(new.ids) and (entry.can_shorten or len(entry.ids) == common):
                entry.used = new.used
                return
            if common == len(entry.ids) and new.can_shorten:
                # All that the older one is good for is in the new one.
                new.uses += entry.uses
                self._drop(entry)
        self._entries.setdefault(_place(new.key, new.ids), []).append(new)
        self.size += new.size
        if not self._fits():
            self._make_room(new)

    def _fits(self) -> bool:
        return self.size <= self._budget and len(self) <= MOST_ENTRIES

    def _make_room(self, newest: _Entry) -> None:
        now = self._clock()
        told = {
            id(seen): (seen, entry)
            for entry in self._all()
            if entry is not newest
            for seen in [Remembered(len(entry.ids), entry.size, entry.uses, now - entry.used)]
        }
        first = chosen(self._chooser, [seen for seen, _ in told.values()], id, otherwise=LeastRecentlyUsed())
        for at in dict.fromkeys([*first, *told]):
            if self._fits():
                return
            self._drop(told[at][1])

    def _drop(self, entry: _Entry) -> None:
        place = _place(entry.key, entry.ids)
        self._entries[place].remove(entry)
        if not self._entries[place]:
            del self._entries[place]
        self.size -= entry.size

    def _late(self, key: str) -> list[_Entry]:
        own = [entry for entry in self._all() if entry.key == key]
        return sorted(own, key=lambda entry: -entry.used)[:LATEST]

    def _all(self) -> Iterable[_Entry]:
        return (entry for entries in self._entries.values() for entry in entries)


def _place(key: str, ids: Ids) -> tuple[str, bytes]:
    return key, ids[:FEWEST_TOKENS].tobytes()


def common_length(one: Ids, other: Ids) -> int:
    """How many tokens are the same from the beginning."""
    length = min(len(one), len(other))
    differ = one[:length] != other[:length]
    at = int(differ.argmax()) if length else 0
    return at if length and differ[at] else length


def _difference(alike: Iterable[tuple[int, _Entry]], ids: Ids) -> Difference | None:
    found = [(common, entry) for common, entry in alike if common < min(len(entry.ids), len(ids))]
    if not found:
        return None
    at, entry = max(found, key=_first)
    return Difference(at, int(entry.ids[at]), int(ids[at]))


def _first(pair: tuple[int, Any]) -> int:
    return pair[0]
