"""How the next token is chosen, in the reference's order: penalties, top-k, typical, top-p, min-p, temperature."""

from collections.abc import Callable

import mlx.core as mx

from mlx_ollama.protocol import Sampling

Sampler = Callable[[mx.array], mx.array]
"""Logits (rows, vocabulary) to token ids (rows,)."""

Processor = Callable[[list[int], mx.array], mx.array]
"""Tokens so far, prompt and answer, and logits (1, vocabulary) to changed logits."""

_KEY_STEP = 0x9E3779B97F4A7C15
_SMALLEST_TOP_P = 1e-9
_KEY_MASK = (1 << 64) - 1


def greedy(logits: mx.array) -> mx.array:
    """The likeliest token of each row. One function for all, so that a greedy batch is sampled in one call."""
    return mx.argmax(logits, axis=-1)


def make_sampler(sampling: Sampling, position: int = 0) -> Sampler:
    """A sampler for one stream, from its token at `position` on.

    It is greedy where the temperature is 0 or only one token is left to choose from.
    """
    if sampling.temperature <= 0 or sampling.top_k == 1:
        return greedy
    return _Stochastic(sampling, position)


def make_processors(sampling: Sampling) -> list[Processor]:
    """The penalties that a request asks for; none for the defaults."""
    neutral = sampling.repeat_penalty == 1 and not sampling.presence_penalty and not sampling.frequency_penalty
    if neutral or sampling.repeat_last_n == 0:
        return []
    return [_Penalties(sampling)]


class _Stochastic:
    """Samples with a key that depends on nothing but seed and position.

    So a stream's tokens are the same whoever shares its batch, and a stream that is continued elsewhere goes on as it
    would have. The few likeliest tokens are taken first: all later steps then work on `top_k` values instead of the
    whole vocabulary.
    """

    def __init__(self, sampling: Sampling, position: int) -> None:
        self._sampling = sampling
        self._position = position

    def __call__(self, logits: mx.array) -> mx.array:
        sampling = self._sampling
        ids, chosen = _likeliest(logits, sampling.top_k)
        if sampling.typical_p < 1:
            chosen = _typical(chosen, sampling.typical_p)
        if sampling.top_p < 1:
            chosen = _within_top_p(chosen, sampling.top_p)
        if sampling.min_p > 0:
            chosen = _above_min_p(chosen, sampling.min_p)
        drawn = mx.random.categorical(chosen / sampling.temperature, key=self._next_key())
        return mx.take_along_axis(ids, drawn[:, None], axis=-1).squeeze(-1)

    def _next_key(self) -> mx.array:
        key: mx.array = mx.random.key((self._sampling.seed + self._position * _KEY_STEP) & _KEY_MASK)
        self._position += 1
        return key


class _Penalties:
    """Repeat, frequency and presence penalties over the last `repeat_last_n` tokens; below 0 means all of them."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling

    def __call__(self, tokens: list[int], logits: mx.array) -> mx.array:
        sampling = self._sampling
        window = sampling.repeat_last_n
        recent = mx.array(tokens if window < 0 else tokens[-window:], dtype=mx.uint32)
        counts = mx.zeros((logits.shape[-1],), dtype=logits.dtype).at[recent].add(1)
        seen = counts > 0
        repeat = sampling.repeat_penalty
        scaled = mx.where(logits > 0, logits / repeat, logits * repeat)
        lowered = scaled - counts * sampling.frequency_penalty - sampling.presence_penalty
        return mx.where(seen, lowered, logits)


def _likeliest(logits: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """Ids and logits of the `count` likeliest tokens, likeliest first; all of them for `count` below 1."""
    size = logits.shape[-1]
    if 0 < count < size:
        candidates = mx.argpartition(-logits, kth=count - 1, axis=-1)[..., :count]
        values = mx.take_along_axis(logits, candidates, axis=-1)
        order = mx.argsort(-values, axis=-1)
        return mx.take_along_axis(candidates, order, axis=-1), mx.take_along_axis(values, order, axis=-1)
    order = mx.argsort(-logits, axis=-1)
    return order, mx.take_along_axis(logits, order, axis=-1)


def _typical(chosen: mx.array, typical_p: float) -> mx.array:
    """Keep the tokens whose surprise is nearest to the expected one, the fewest that add up to `typical_p`.

    Locally typical sampling (Meister et al., 2022).
    """
    logprobs = chosen - mx.logsumexp(chosen, axis=-1, keepdims=True)
    probabilities = mx.exp(logprobs)
    surprise = mx.where(probabilities > 0, -logprobs, 0)
    expected = mx.sum(probabilities * surprise, axis=-1, keepdims=True)
    order = mx.argsort(mx.abs(-logprobs - expected), axis=-1)
    ordered = mx.take_along_axis(probabilities, order, axis=-1)
    before = mx.cumsum(ordered, axis=-1) - ordered
    kept = mx.put_along_axis(mx.zeros(before.shape, mx.bool_), order, before < max(typical_p, _SMALLEST_TOP_P), axis=-1)
    return mx.where(kept, chosen, -mx.inf)


def _within_top_p(chosen: mx.array, top_p: float) -> mx.array:
    """Keep the fewest tokens, at least one, whose probabilities among those left add up to `top_p`."""
    probabilities = mx.softmax(chosen, axis=-1, precise=True)
    before = mx.cumsum(probabilities, axis=-1) - probabilities
    kept: mx.array = mx.where(before < max(top_p, _SMALLEST_TOP_P), chosen, -mx.inf)
    return kept


def _above_min_p(chosen: mx.array, min_p: float) -> mx.array:
    """Keep tokens at least `min_p` times as likely as the likeliest, which comes first."""
    return mx.where(chosen >= chosen[..., :1] + mx.log(mx.array(min(min_p, 1.0))), chosen, -mx.inf)
