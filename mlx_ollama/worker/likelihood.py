"""How likely each sampled token was, where a caller wants to know (wire-spec 3.1, `logprobs`)."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from mlx_ollama.types import TokenLogprob
from mlx_ollama.worker.sampling import likeliest


@dataclass(frozen=True)
class _Place:
    """The logits (vocabulary,) of one place in an answer, the logarithm of their sum, and the likeliest tokens' ids."""

    logits: mx.array
    total: mx.array
    likeliest: mx.array


class Likelihood:
    """Sits in front of a stream's other processors and keeps the logits that they are given.

    The figures are of the model itself, in float32 over the whole vocabulary: no penalty, grammar or temperature is in
    them. `count` is how many of the likeliest tokens each place tells, `token_bytes` spells a token. All but a handful
    of numbers stays where the model computes.
    """

    def __init__(self, count: int, token_bytes: Callable[[int], bytes]) -> None:
        self._count = count
        self._token_bytes = token_bytes
        self._places: deque[_Place] = deque()

    def __call__(self, tokens: list[int], logits: mx.array) -> mx.array:
        row = logits.reshape(-1).astype(mx.float32)
        count = min(self._count, row.shape[0])
        ids = likeliest(row[None], count)[0][0] if count else mx.zeros((0,), mx.uint32)
        self._places.append(_Place(row, mx.logsumexp(row), ids))
        return logits

    def of(self, token: int) -> TokenLogprob:
        """The figures of the oldest place not asked for yet, in which `token` was sampled."""
        place = self._places.popleft()
        ids = mx.concatenate([mx.array([token], dtype=mx.uint32), place.likeliest.astype(mx.uint32)])
        logprobs = place.logits[ids] - place.total
        mx.eval(ids, logprobs)
        found = zip(np.array(ids), np.array(logprobs), strict=True)
        entries = [self._entry(int(other), float(logprob)) for other, logprob in found]
        return replace(entries[0], top=tuple(sorted(entries[1:], key=lambda entry: -entry.logprob)))

    def _entry(self, token: int, logprob: float) -> TokenLogprob:
        spelled = self._token_bytes(token)
        return TokenLogprob(spelled.decode("utf-8", "replace"), logprob, tuple(spelled))
