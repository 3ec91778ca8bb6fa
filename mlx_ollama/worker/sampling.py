"""How the next token is chosen, in the reference's order: penalties, top-k, typical, top-p, min-p, temperature."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

import mlx.core as mx

from mlx_ollama.protocol import Sampling

Processor = Callable[[list[int], mx.array], mx.array]
"""Tokens so far, prompt and answer, and logits (1, vocabulary) to changed logits."""

_KEY_STEP = 0x9E3779B97F4A7C15
_SMALLEST_TOP_P = 1e-9
_BLOCK = 32
_HALF = 32
_HALF_MASK = (1 << _HALF) - 1
_KEY_MASK = (1 << 2 * _HALF) - 1


@dataclass(frozen=True)
class Choice:
    """How to choose among the tokens of a row. The likeliest one is all that the defaults leave."""

    temperature: float = 0.0
    top_k: int = 1
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0

    @property
    def is_greedy(self) -> bool:
        return self.temperature <= 0 or self.top_k == 1

    def __call__(self, logits: mx.array, keys: Sequence[int]) -> mx.array:
        """The tokens (rows,) that are drawn from logits (rows, vocabulary) with a key of 64 bits for each row.

        The few likeliest tokens are taken first: all later steps then work on `top_k` values instead of the whole
        vocabulary.
        """
        if self.is_greedy:
            return mx.argmax(logits, axis=-1)
        ids, chosen = likeliest(logits, self.top_k)
        # A sum of many small probabilities stands still in half precision.
        chosen = chosen.astype(mx.float32)
        if self.typical_p < 1:
            chosen = _typical(chosen, self.typical_p)
        if self.top_p < 1:
            chosen = _within_top_p(chosen, self.top_p)
        if self.min_p > 0:
            chosen = _above_min_p(chosen, self.min_p)
        drawn = _draw(chosen / self.temperature, keys)
        return mx.take_along_axis(ids, drawn[:, None], axis=-1).squeeze(-1)


class Sampler:
    """Chooses the tokens of one stream, from the one at `position` on.

    Its keys depend on nothing but seed and position. So a stream's tokens are the same whoever shares its batch, and a
    stream that is continued elsewhere goes on as it would have.
    """

    def __init__(self, choice: Choice, seed: int = 0, position: int = 0) -> None:
        self.choice = choice
        self._seed = seed
        self._position = position

    def next_key(self) -> int:
        """The key for the next token."""
        key = (self._seed + self._position * _KEY_STEP) & _KEY_MASK
        self._position += 1
        return key


def sample(samplers: Sequence[Sampler], logits: mx.array) -> mx.array:
    """The next token of each row of logits; neighbours who choose alike are sampled in one call."""
    tokens, at = [], 0
    for choice, alike in groupby(samplers, attrgetter("choice")):
        keys = [sampler.next_key() for sampler in alike]
        tokens.append(choice(logits[at : at + len(keys)], keys))
        at += len(keys)
    return mx.concatenate(tokens).astype(mx.uint32)


def make_sampler(sampling: Sampling, position: int = 0) -> Sampler:
    """The sampler that a request asks for, for its token at `position` and those behind it."""
    choice = Choice(sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p, sampling.typical_p)
    return Sampler(Choice() if choice.is_greedy else choice, sampling.seed, position)


def make_processors(sampling: Sampling) -> list[Processor]:
    """The penalties that a request asks for; none for the defaults."""
    neutral = sampling.repeat_penalty == 1 and not sampling.presence_penalty and not sampling.frequency_penalty
    if neutral or sampling.repeat_last_n == 0:
        return []
    return [_Penalties(sampling)]


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


def likeliest(logits: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """Ids and logits of the `count` likeliest tokens, likeliest first; all of them for `count` below 1."""
    size = logits.shape[-1]
    if not 0 < count < size:
        order = mx.argsort(-logits, axis=-1)
        return order, mx.take_along_axis(logits, order, axis=-1)
    ids, values = _candidates(logits, count)
    few = mx.argpartition(-values, kth=count - 1, axis=-1)[..., :count]
    ids, values = mx.take_along_axis(ids, few, axis=-1), mx.take_along_axis(values, few, axis=-1)
    order = mx.argsort(-values, axis=-1)
    return mx.take_along_axis(ids, order, axis=-1), mx.take_along_axis(values, order, axis=-1)


def _candidates(logits: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """Ids and logits of some tokens of each row among which the `count` likeliest are.

    They lie in the `count` blocks whose best tokens are the best. Finding a maximum is quick where finding an order,
    even of the few, is not: on a GPU MLX sorts the whole row for it.
    """
    rows, size = logits.shape
    if count * _BLOCK * 2 > size:
        return mx.broadcast_to(mx.arange(size, dtype=mx.uint32), logits.shape), logits
    if size % _BLOCK:
        logits = mx.pad(logits, [(0, 0), (0, _BLOCK - size % _BLOCK)], constant_values=-mx.inf)
    best = mx.max(logits.reshape(rows, -1, _BLOCK), axis=-1)
    blocks = mx.argpartition(-best, kth=count - 1, axis=-1)[..., :count]
    ids = (blocks[..., None] * _BLOCK + mx.arange(_BLOCK, dtype=mx.uint32)).reshape(rows, -1)
    return ids, mx.take_along_axis(logits, ids, axis=-1)


def _draw(scores: mx.array, keys: Sequence[int]) -> mx.array:
    """A place in each row of scores (rows, n), as probable as the exponential of its score (the Gumbel-max trick)."""
    pairs = mx.array([[key >> _HALF, key & _HALF_MASK] for key in keys], dtype=mx.uint32)
    noise = mx.vmap(lambda key: mx.random.gumbel(shape=scores.shape[-1:], key=key))(pairs)
    return mx.argmax(scores + noise, axis=-1)


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
    """Keep tokens at least `min_p` times as likely as the likeliest of those left."""
    likeliest_left = mx.max(chosen, axis=-1, keepdims=True)
    return mx.where(chosen >= likeliest_left + mx.log(mx.array(min(min_p, 1.0))), chosen, -mx.inf)
