"""Whether a worker holds more than it ought to: the rule, without the looking."""

from dataclasses import dataclass

from mlx_ollama.memory.gauge import PERCENT

FIRST_USES = 4
"""So many requests bring a worker to its size: libraries that are imported on first use, vocabularies of grammars."""

LEAST_BYTES = 256 << 20
"""Less than that is not worth a load, however small the model: allocators keep as much for no reason of ours."""


@dataclass
class Weighed:
    """What one worker has weighed so far. All bytes are its own: its footprint less what it could give back.

    `began` is how often its model was used before it came, `looked` how often when it was last weighed.
    """

    began: int = 0
    looked: int = 0
    at_first: int = 0

    def is_due(self, uses: int) -> bool:
        """Whether there is anything to find out: nobody grows who has done nothing."""
        return uses > self.looked

    def learn(self, uses: int, own: int) -> None:
        """It was weighed after its model had been used so often: the most of its first weights is what it may hold."""
        if not self.at_first or uses - self.began <= FIRST_USES:
            self.at_first = max(self.at_first, own)

    def is_beyond(self, own: int, percent: float) -> bool:
        """Whether it has grown by more than `percent` of what it was at first, and by enough to care; never if 0."""
        return percent > 0 and own > self.at_first + max(LEAST_BYTES, self.at_first * percent / PERCENT)
