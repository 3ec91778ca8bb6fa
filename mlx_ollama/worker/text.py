"""From sampled tokens to text that may be sent: whole characters, nothing that could become a stop string."""

import codecs
from collections.abc import Sequence


class TextStream:
    """The text of one answer as it grows (wire-spec 2.2: one piece is never cut inside a character)."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def add(self, data: bytes) -> str:
        """Take a token's bytes, return what is certain; sets `stopped` once a stop string is complete."""
        text = self._characters.decode(data)
        return self._release(text) if self._stops else text

    def flush(self) -> str:
        """The rest, when no token follows."""
        rest = self._characters.decode(b"", final=True)
        return (self._release(rest) if self._stops else rest) + self._take_held()

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            ready, self._held = self._held[: min(found)], ""
            return ready
        keep = max(overlap(self._held, stop) for stop in self._stops)
        split = len(self._held) - keep
        ready, self._held = self._held[:split], self._held[split:]
        return ready

    def _take_held(self) -> str:
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
