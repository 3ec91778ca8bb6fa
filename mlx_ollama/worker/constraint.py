"""Holds one stream to a grammar, from the place where its answer begins."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from llguidance import LLMatcher

from mlx_ollama.errors import GenerationFailed
from mlx_ollama.worker.parse.parser import Gate
from mlx_ollama.worker.tokenizer import Tokenizer


class Constraint:
    """A logits processor that leaves only tokens that the grammar allows.

    A model that thinks does so first, and freely, and the grammar takes over behind the `gate`; an end token cannot
    come before that. Where the prompt has not begun the thoughts, the model may begin them, or answer at once.
    """

    def __init__(
        self, matcher: LLMatcher, tokenizer: Tokenizer, end_tokens: frozenset[int], gate: Gate | None = None
    ) -> None:
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._ends = mx.array(sorted(end_tokens), dtype=mx.uint32)
        self._forced = tokenizer.encode_plain(gate.opening) if gate else []
        self._bridge = tokenizer.encode_plain(gate.bridge) if gate else []
        self._gate = gate.text.encode() if gate else b""
        self._thoughts = b""
        self._may_answer = bool(self._forced)
        self._has_begun = False

    def replay(self, tokens: Sequence[int]) -> None:
        """Take in the beginning of an answer that was sampled before.

        Raises:
            GenerationFailed: if the grammar does not allow it.
        """
        for token in tokens:
            self._take(token)

    def __call__(self, tokens: list[int], logits: mx.array) -> mx.array:
        """The logits of tokens that may follow `tokens`; those of all others are -inf.

        Raises:
            GenerationFailed: if the grammar cannot be followed.
        """
        if self._has_begun:
            self._take(tokens[-1])
        # The first time they end with what `replay` was given, or with the prompt.
        self._has_begun = True
        return self._masked(logits)

    def _take(self, token: int) -> None:
        if self._may_answer and token != self._forced[0]:
            self._forced, self._bridge, self._gate = [], [], b""
        self._may_answer = False
        if self._forced:
            self._forced.pop(0)
        elif self._gate:
            self._think(self._tokenizer.token_bytes(token))
        elif not self._matcher.is_stopped():
            self._matcher.consume_token(token)
            self._check()

    def _think(self, data: bytes) -> None:
        thoughts = self._thoughts + data
        _, gate, rest = thoughts.partition(self._gate)
        if not gate:
            self._thoughts = thoughts[-len(self._gate) :]
            return
        self._gate = b""
        self._forced = self._bridge
        # A token may hold the end of the thoughts and the beginning of the answer.
        beginning = rest.strip().decode("utf-8", "replace")
        if beginning:
            self._matcher.consume_tokens(self._tokenizer.encode_plain(beginning))
            self._check()

    def _masked(self, logits: mx.array) -> mx.array:
        if self._forced and not self._may_answer:
            return _only(self._forced[0], logits)
        if self._gate and not self._may_answer:
            return mx.put_along_axis(logits, self._ends[None], mx.array(-mx.inf, logits.dtype), axis=-1)
        allowed = np.frombuffer(self._matcher.compute_logit_bias(), dtype=np.uint8)
        self._check()
        if self._may_answer:
            allowed = allowed.copy()
            allowed[self._forced[0]] = 1
        size = logits.shape[-1]
        if len(allowed) < size:
            # A head may be wider than the vocabulary.
            allowed = np.concatenate((allowed, np.zeros(size - len(allowed), np.uint8)))
        return mx.where(mx.array(allowed[:size]), logits, mx.array(-mx.inf, logits.dtype))

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GenerationFailed(f"the format could not be followed: {self._matcher.get_error()}")


def _only(token: int, logits: mx.array) -> mx.array:
    return mx.where(mx.arange(logits.shape[-1]) == token, logits, mx.array(-mx.inf, logits.dtype))
