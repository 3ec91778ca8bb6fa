"""Streams that decode together only where that does not multiply memory."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_ollama.worker.batch import Batch, Joining, Left, Sampled

MOST_PADDING = 1.5
"""A batch holds rows of the length of its longest stream; so many times of what they need is the most."""

FREE_TOKENS = 8192
"""Rows times length; below, padding is not worth a second pass over the weights."""


def fits(lengths: Sequence[int], new: int) -> bool:
    """Whether a stream of `new` tokens may join streams of these lengths."""
    padded = (len(lengths) + 1) * max(new, *lengths, 0)
    return padded <= max(FREE_TOKENS, MOST_PADDING * (sum(lengths) + new))


@dataclass(eq=False)
class _Group:
    """A batch, the streams' names in it and outside, and their lengths less the steps done before they came."""

    batch: "Batch"
    outside: dict[int, int] = field(default_factory=dict)
    starts: dict[int, int] = field(default_factory=dict)
    steps: int = 0

    def lengths(self) -> list[int]:
        return [start + self.steps for start in self.starts.values()]


class Groups:
    """A batch of batches: one very long stream gets one of its own, so that short ones are not padded to its length.

    Each step decodes a token for every stream of every batch. Without `can_share` each stream has a batch of its own.
    """

    def __init__(self, make: "Callable[[], Batch]", *, can_share: bool = True) -> None:
        self._make = make
        self._can_share = can_share
        self._groups = [_Group(make())]
        self._places: dict[int, tuple[_Group, int]] = {}
        self._next_handle = 0

    def __len__(self) -> int:
        return len(self._places)

    def join(self, streams: "Sequence[Joining]") -> list[int]:
        """Take streams in; their first tokens come with the next step."""
        planned: dict[_Group, list[tuple[int, Joining]]] = {}
        for handle, stream in enumerate(streams, start=self._next_handle):
            length = len(stream.tokens)
            group = self._group_for(length)
            group.starts[handle] = length - group.steps
            planned.setdefault(group, []).append((handle, stream))
        handles = list(range(self._next_handle, self._next_handle + len(streams)))
        self._next_handle += len(streams)
        for group, joining in planned.items():
            inside = group.batch.join([stream for _, stream in joining])
            for (handle, _), inner in zip(joining, inside, strict=True):
                group.outside[inner] = handle
                self._places[handle] = group, inner
        return handles

    def step(self) -> "list[Sampled]":
        """The tokens of every batch's step."""
        return [sampled for group in tuple(self._groups) for sampled in self._step(group)]

    def leave(self, handle: int) -> "Left | None":
        """Drop a stream at once."""
        if handle not in self._places:
            return None
        group, inner = self._places[handle]
        left = group.batch.leave(inner)
        self._forget(handle)
        return left

    def close(self) -> None:
        for group in self._groups:
            group.batch.close()

    def _group_for(self, length: int) -> _Group:
        for group in self._groups:
            if not group.starts or (self._can_share and fits(group.lengths(), length)):
                return group
        self._groups.append(_Group(self._make()))
        return self._groups[-1]

    def _step(self, group: _Group) -> "Iterable[Sampled]":
        group.steps += 1
        for sampled in group.batch.step():
            handle = group.outside[sampled.handle]
            if sampled.ended:
                self._forget(handle)
            yield sampled._replace(handle=handle)

    def _forget(self, handle: int) -> None:
        group, inner = self._places.pop(handle)
        del group.outside[inner], group.starts[handle]
        if not group.starts and len(self._groups) > 1:
            self._groups.remove(group)
            group.batch.close()
