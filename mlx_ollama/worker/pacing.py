"""When prompts are read, and when the next step of decoding is made."""

from collections.abc import Callable

from mlx_ollama.worker.prefill import Prefill

BRIEF = 5
"""While others decode, a slice of reading has this part of its time at most..."""

STEPS_A_SLICE = 3
"""...or that of so many steps, where they are slow: else reading would hardly get on between them."""

OVERDRAFT = 2
"""A short prompt may take so many times what is left for it, rather than a second pass."""

SLICES_OF_A_CROWD = 4
"""Whoever is read and could begin waits so many slices at most for others."""


class Pacing:
    """Shares the time between reading and decoding.

    Times are in nanoseconds. `slice` is the longest that a pass of reading may take, `step` what the last step took.
    """

    def __init__(self, slice_: int, clock: Callable[[], int]) -> None:
        self.slice = slice_
        self.step = 0
        self._clock = clock
        self._waiting_since: int | None = None

    def next_pass(self, prefill: Prefill, *, room: int, ready: int, decoding: int) -> int:
        """The time of the pass of reading that is next; 0 where a step is.

        There is `room` for so many more prompts, so many that are read are `ready` to decode with the next step, and so
        many are `decoding`.
        """
        budget = self._budget(prefill, ready, decoding) if prefill and room else 0
        if not (budget and ready + decoding):
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = self._clock()
        return budget

    def between_steps(self, quick: int, ready: int, decoding: int) -> int:
        """The time for reading from step to step.

        A crowd that arrives together shall decode together, as a pass for all costs little more than one for a few: so
        whoever is the first of it waits for the others. Those who decode already wait no longer than a slice, and also
        let long prompts get on; of the time they have their share by heads, where `quick` prompts have one that a slice
        is enough for.
        """
        if not decoding:
            return SLICES_OF_A_CROWD * self.slice if quick else 0
        by_heads = self.step * quick // (ready + decoding)
        return min(self.slice, max(self.slice // BRIEF, STEPS_A_SLICE * self.step, by_heads))

    def _budget(self, prefill: Prefill, ready: int, decoding: int) -> int:
        if not (ready or decoding):
            return self.slice
        quick = prefill.quick(self.slice / 1e9)
        next_pass = 1 + int(1e9 * min(quick, default=prefill.least))
        left = self.between_steps(len(quick), ready, decoding)
        if self._waiting_since is not None:
            left -= self._clock() - self._waiting_since
            if left < next_pass:
                return 0
        # Whoever is read in halves costs two passes.
        return min(self.slice, next_pass if left < next_pass <= OVERDRAFT * left else left)
