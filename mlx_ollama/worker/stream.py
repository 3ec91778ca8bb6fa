"""One answer on its way, from submission to its last token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from mlx_ollama.types import Delta, TokenLogprob
from mlx_ollama.worker.constraint import Constraint
from mlx_ollama.worker.grammar import Compiling
from mlx_ollama.worker.likelihood import Likelihood
from mlx_ollama.worker.parse.parser import Parsed, Parser
from mlx_ollama.worker.prompt import PromptTokens
from mlx_ollama.worker.sampling import Processor, Sampler
from mlx_ollama.worker.text import TextStream
from mlx_ollama.worker.tokenizer import Tokenizer

EndReason: TypeAlias = Literal["stop", "length"]


@dataclass
class Stream:
    """The state of one answer. Times are in nanoseconds; `limit` is the most tokens to sample.

    `kind` is what prompts must share besides tokens to be of use to each other.

    Raw text passes `text` (whole characters, stop strings) and then `parser` (thinking, tool calls); what comes out
    waits in `ready` for the next frame.
    """

    id: int
    prompt: PromptTokens
    limit: int
    want_context: bool
    submitted: int
    text: TextStream
    parser: Parser
    sampler: Sampler
    processors: list[Processor]
    likelihood: Likelihood | None = None
    schema: str = ""
    grammar: Compiling | None = None
    kind: str = ""
    handle: int | None = None
    read: int = 0
    answer: list[int] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    ready: Delta | None = None
    _sent_tokens: int = 0
    _logprobs: list[TokenLogprob] = field(default_factory=list)

    @property
    def is_ready(self) -> bool:
        """Whether the stream can be decoded once its prompt is read: compiling a grammar takes its time."""
        return self.grammar is None or self.grammar.done()

    def prepare(self, tokenizer: Tokenizer, end_tokens: frozenset[int]) -> None:
        """Put the processors in their order: figures of the bare model first, the grammar's word last.

        Raises:
            InvalidRequest: for a grammar that could not be compiled.
            GenerationFailed: for one that does not allow the answer's beginning.
        """
        if self.likelihood is not None:
            self.processors.insert(0, self.likelihood)
        if self.grammar is not None:
            constraint = Constraint(self.grammar.result(), tokenizer, end_tokens, self.parser.gate)
            constraint.replay(self.answer)
            self.processors.append(constraint)

    def replay(
        self, tokens: Sequence[int], token_bytes: Callable[[int], bytes], end_tokens: frozenset[int]
    ) -> EndReason | None:
        """Take in the beginning of the answer, which the caller has got from another worker: none of it is sent again.

        Says why the answer ends with it, if it does.
        """
        # Nothing computes their likelihood here, and it has been told.
        likelihood, self.likelihood = self.likelihood, None
        reason: EndReason | None = None
        for count, token in enumerate(tokens, start=1):
            reason = self.add(token, token_bytes(token), is_end=token in end_tokens, is_last=count >= self.limit)
        self.likelihood = likelihood
        self._sent_tokens = len(self.answer)
        self.take()
        return reason

    def add(self, token: int, data: bytes, *, is_end: bool, is_last: bool) -> EndReason | None:
        """Take the next token and its bytes; say why the answer ends, if it does.

        `is_end` marks a token that ends an answer, `is_last` one after which no more will be sampled.
        """
        self.answer.append(token)
        logprob = self.likelihood.of(token) if self.likelihood else None
        if is_end:
            self._understand(self.text.flush())
            self._complete()
            return "stop"
        if logprob is not None:
            self._logprobs.append(logprob)
        self._understand(self.text.add(data))
        if is_last and not self.text.stopped:
            self._understand(self.text.flush())
        if self.text.stopped or is_last:
            self._complete()
            return "stop" if self.text.stopped else "length"
        return None

    def take(self) -> Delta | None:
        """What may be sent, once."""
        delta, self.ready = self.ready, None
        return delta

    def _understand(self, text: str) -> None:
        if text:
            self.raw.append(text)
            self._emit(self.parser.add(text))

    def _complete(self) -> None:
        self._emit(self.parser.flush())

    def _emit(self, parsed: Parsed | None) -> None:
        if parsed is None:
            return
        start = self._sent_tokens
        tokens, logprobs = tuple(self.answer[start:]), tuple(self._logprobs)
        self._sent_tokens = len(self.answer)
        self._logprobs.clear()
        delta = Delta(parsed.text, tokens, start, parsed.thinking, parsed.calls, logprobs)
        self.ready = delta if self.ready is None else Delta.joined((self.ready, delta))
