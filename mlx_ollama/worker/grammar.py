"""From a JSON schema to a grammar that a stream can be held to (wire-spec 3.1, `format`)."""

import json
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from mlx_ollama.errors import InvalidRequest
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
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()

    def compile(self, schema: str) -> Compiling:
        """A matcher at its beginning; its result raises InvalidRequest for an unusable schema, with the reason."""
        return self._pool.submit(self._matcher, schema)

    def _matcher(self, schema: str) -> LLMatcher:
        found = self._compiled.get(schema)
        if found is None:
            found = self._compiled[schema] = self._compile(schema)
            if len(self._compiled) > REMEMBERED_GRAMMARS:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(schema)
        return found.deep_copy()

    def _compile(self, schema: str) -> LLMatcher:
        if self._vocabulary is None:
            self._vocabulary = _vocabulary(self._tokenizer, self._end_tokens)
        try:
            grammar = LLMatcher.grammar_from_json_schema(
                json.dumps(closed(json.loads(schema))),
                overrides={"whitespace_flexible": True, "whitespace_pattern": WHITESPACE, "coerce_one_of": True},
            )
            matcher = LLMatcher(self._vocabulary, grammar, log_level=0)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"invalid format: {error}") from error
        if matcher.is_error():
            raise InvalidRequest(f"invalid format: {_reason(matcher.get_error())}")
        return matcher


def closed(schema: Any) -> Any:
    """The schema with `additionalProperties: false` where an object lists its properties and says nothing of others.

    So does the reference; a small model would otherwise invent members without end. Where schemas are intersected
    (`allOf` and its like) closing one part would forbid what another wants, so such schemas stay as they are.
    """
    if any(word in node for node in _objects(schema) for word in ("allOf", "unevaluatedProperties", "not", "if")):
        return schema
    for node in _objects(schema):
        if isinstance(node.get("properties"), dict) and "patternProperties" not in node:
            node.setdefault("additionalProperties", False)
    return schema


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Every object in a decoded schema, however deep."""
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


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
