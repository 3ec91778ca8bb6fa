"""Holds one stream to a grammar, from the place where its answer begins."""

import logging

import mlx.core as mx
import numpy as np
from llguidance import LLMatcher

from mlx_ollama.worker.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


class Constraint:
    """A logits processor that leaves only tokens that the grammar allows.

    A model that thinks does so first, and freely: `opening` is the text that begins its thoughts, forced where the
    prompt has not begun them, and `gate` the text that ends them; both are empty where the answer begins at once. An
    end token cannot come before the gate.

    It never raises, since that would break the streams that share its batch: `failure` says what went wrong.
    """

    def __init__(
        self, matcher: LLMatcher, tokenizer: Tokenizer, end_tokens: frozenset[int], *, opening: str = "", gate: str = ""
    ) -> None:
        self.failure = ""
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._ends = mx.array(sorted(end_tokens), dtype=mx.uint32)
        self._forced = tokenizer.encode_plain(opening) if gate else []
        self._gate = gate.encode()
        self._thoughts = b""
        self._begun = False

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        if self.failure:
            return logits
        # The model runs while the mask is worked out: only the sampling has to wait for both.
        mx.async_eval(logits)  # type: ignore[no-untyped-call]
        try:
            if self._begun:
                self._take(int(np.array(tokens[-1])))
            self._begun = True
            return self._masked(logits)
        # A fault in here belongs to this stream alone.
        except Exception as error:
            logger.exception("a grammar could not be followed")
            self.failure = f"{type(error).__name__}: {error}"
            return logits

    def _take(self, token: int) -> None:
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
        # A token may hold the end of the thoughts and the beginning of the answer.
        beginning = rest.strip().decode("utf-8", "replace")
        if beginning:
            self._matcher.consume_tokens(self._tokenizer.encode_plain(beginning))
            self._check()

    def _masked(self, logits: mx.array) -> mx.array:
        if self._forced:
            return _only(self._forced[0], logits)
        if self._gate:
            return mx.put_along_axis(logits, self._ends[None], mx.array(-mx.inf, logits.dtype), axis=-1)
        allowed = np.frombuffer(self._matcher.compute_logit_bias(), dtype=np.uint8)
        self._check()
        # A head may be wider than the vocabulary.
        size = logits.shape[-1]
        allowed = np.pad(allowed[:size], (0, max(0, size - len(allowed))))
        return mx.where(mx.array(allowed) > 0, logits, mx.array(-mx.inf, logits.dtype))

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RuntimeError(self._matcher.get_error())


def _only(token: int, logits: mx.array) -> mx.array:
    return mx.where(mx.arange(logits.shape[-1]) == token, logits, mx.array(-mx.inf, logits.dtype))
