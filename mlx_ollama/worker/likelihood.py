"""How likely each sampled token was, where a caller wants to know (wire-spec 3.1, `logprobs`)."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_ollama.types import TokenLogprob


class Likelihood:
    """Sits in front of a stream's other processors and keeps the logits that they are given.

    The figures are of the model itself, in float64 over the whole vocabulary: no penalty, grammar or temperature is in
    them. `count` is how many of the likeliest tokens each place tells, `token_bytes` spells a token.
    """

    def __init__(self, count: int, token_bytes: Callable[[int], bytes]) -> None:
        self._count = count
        self._token_bytes = token_bytes
        self._steps: deque[mx.array] = deque()

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        self._steps.append(logits)
        return logits

    def of(self, token: int) -> TokenLogprob:
        """The figures of the oldest step not asked for yet, in which `token` was sampled."""
        logits = np.array(self._steps.popleft().astype(mx.float32)).reshape(-1).astype(np.float64)
        shifted = logits - logits.max()
        logprobs = shifted - np.log(np.exp(shifted).sum())
        own = self._entry(token, logprobs)
        if not self._count:
            return own
        likeliest = np.argpartition(-logprobs, min(self._count, len(logprobs)) - 1)[: self._count]
        ranked = sorted(likeliest.tolist(), key=lambda other: (-logprobs[other], other))
        return replace(own, top=tuple(self._entry(other, logprobs) for other in ranked))

    def _entry(self, token: int, logprobs: "np.ndarray[Any, Any]") -> TokenLogprob:
        spelled = self._token_bytes(token)
        return TokenLogprob(spelled.decode("utf-8", "replace"), float(logprobs[token]), tuple(spelled))
