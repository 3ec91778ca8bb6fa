"""From a JSON schema to a grammar that a stream can be held to (wire-spec 3.1, `format`)."""

import json
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from mlx_ollama.errors import InvalidRequest
from mlx_ollama.worker.format_schema import prepared
from mlx_ollama.worker.tokenizer import Tokenizer

WHITESPACE = r"( |\n[ \t]{0,20})?"
"""As in the reference: a model may lay its JSON out, and can never write blanks until its tokens are used up."""

REMEMBERED_GRAMMARS = 32
LONGEST_REASON = 400


Compiling: TypeAlias = Future[LLMatcher]


class Grammars:
    """Compiles schemas in a thread of its own, since a large one takes longer than a decode step; keeps the last few.

    `end_tokens` are the tokens with which an answer may end once its JSON is complete.
    """

    def __init__(self, tokenizer: Tokenizer, end_tokens: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._end_tokens = end_tokens
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._vocabulary: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher | InvalidRequest] = OrderedDict()

    def compile(self, schema: str) -> Compiling:
        """A matcher at its beginning; its result raises InvalidRequest for an unusable schema, with the reason."""
        return self._pool.submit(self._matcher, schema)

    def forget(self, schema: str) -> None:
        """Compile a schema anew for whoever asks next: copies of a matcher share what one of them may have spoilt."""
        self._pool.submit(self._compiled.pop, schema, None)

    def _matcher(self, schema: str) -> LLMatcher:
        found = self._compiled.get(schema)
        if found is None:
            found = self._compiled[schema] = self._compile(schema)
            if len(self._compiled) > REMEMBERED_GRAMMARS:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(schema)
        if isinstance(found, InvalidRequest):
            raise InvalidRequest(str(found))
        return found.deep_copy()

    def _compile(self, schema: str) -> LLMatcher | InvalidRequest:
        if self._vocabulary is None:
            self._vocabulary = _vocabulary(self._tokenizer, self._end_tokens)
        try:
            grammar = LLMatcher.grammar_from_json_schema(
                json.dumps(prepared(json.loads(schema))),
                overrides={"whitespace_flexible": True, "whitespace_pattern": WHITESPACE, "coerce_one_of": True},
            )
            matcher = LLMatcher(self._vocabulary, grammar, log_level=0)
        except (ValueError, RecursionError) as error:
            return InvalidRequest(f"invalid format: {error}")
        if matcher.is_error():
            return InvalidRequest(f"invalid format: {_reason(matcher.get_error())}")
        return matcher


def _vocabulary(tokenizer: Tokenizer, end_tokens: frozenset[int]) -> LLTokenizer:
    """Every token's exact bytes, as they will appear in the answer."""

    class _Tokens:
        eos_token_id = min(end_tokens, default=0)
        bos_token_id = None
        tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.size)]  # noqa: RUF012 - read once
        special_token_ids = sorted(tokenizer.special_tokens | end_tokens)

        def __call__(self, text: bytes | str) -> list[int]:
            return tokenizer.encode_plain(text if isinstance(text, str) else text.decode("utf-8", "replace"))

    return LLTokenizer(
        TokenizerWrapper(_Tokens()),
        eos_token=sorted(end_tokens) or None,
        slices=LLTokenizer.json_slices(),
    )


def _reason(error: str) -> str:
    """A complaint in one line; the compiler draws a little picture for some."""
    return " ".join(error.split())[:LONGEST_REASON] or "the schema cannot be compiled"
