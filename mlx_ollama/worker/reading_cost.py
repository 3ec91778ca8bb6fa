"""What it costs to read prompts, learnt while they are read."""

SHORT_PASS_TOKENS = 16
"""Passes up to this length tell of the weights, longer ones of the tokens."""

FIRST_GUESS = 0.6
"""The weights' part of a short first pass. With more than half the second is longer, which tells the two apart.

Of a long one it is less: too much would never be found out.
"""

LEAST_TOKENS_PART = 0.1
"""Of a long pass. Who takes nearly all of one for the weights would make the next endless."""

SURPRISE = 2
"""A pass that took so many times what was expected tells of the machine's other work, not of the model."""


class ReadingCost:
    """A pass of the model takes so many seconds for its weights, however few tokens it reads, and so many for each.

    How deep in a prompt the tokens are counts for theirs, so the two are not fitted together: a line through passes
    that get shorter and dearer would have it that tokens cost nothing.
    """

    def __init__(self, *, weights: float = 0.0, token: float = 0.0) -> None:
        self.weights, self.token = weights, token

    def of(self, tokens: int) -> float:
        """Seconds of a pass."""
        return self.weights + self.token * tokens

    @property
    def least(self) -> float:
        """Seconds of the shortest pass that is worth while: half of it goes to its tokens."""
        return 2 * self.weights

    def affordable(self, seconds: float) -> float:
        """Tokens of one pass within so many seconds, or of the least one; infinitely many if nothing is known."""
        return (max(seconds, self.least) - self.weights) / self.token if self.token else float("inf")

    def learn(self, tokens: int, seconds: float) -> None:
        """Learn from a pass."""
        known = self.of(tokens)
        if known:
            seconds = min(seconds, SURPRISE * known)
        else:
            part = FIRST_GUESS * min(1, SHORT_PASS_TOKENS / tokens)
            self.weights, self.token = part * seconds, (1 - part) * seconds / tokens
        if tokens <= SHORT_PASS_TOKENS:
            self.weights = max(0.0, seconds - self.token * tokens)
        else:
            self.weights = min(self.weights, (1 - LEAST_TOKENS_PART) * seconds)
            token = (seconds - self.weights) / tokens
            # The first pass after a rest is dear, and what is deep in a prompt gets dearer little by little.
            self.token = min(token, (self.token + token) / 2)
