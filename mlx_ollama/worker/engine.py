"""The loop of a worker: take frames, read prompts for a while, decode one step, send what came of it."""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mlx_ollama.errors import MlxOllamaError, PromptTooLong, TemplateFailed
from mlx_ollama.protocol import (
    Cancel,
    Embed,
    Failed,
    Failure,
    Finished,
    Frame,
    Render,
    RenderedPrompt,
    Step,
    Submit,
)
from mlx_ollama.worker.batch import Batch, Joining, Sampled, make_batch
from mlx_ollama.worker.prefill import Prefill
from mlx_ollama.worker.prompt import PromptTokens, render, tokenize
from mlx_ollama.worker.sampling import Processor, Sampler, make_processors, make_sampler
from mlx_ollama.worker.text import TextStream
from mlx_ollama.worker.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

UNBOUNDED_CONTEXTS = 10
"""An answer without a limit of its own ends after this many contexts, as the reference's does (wire-spec 3.3)."""


FRAME_INTERVAL_NS = 16_000_000
"""Pieces of quick steps share a frame, so that the gateway wakes at most so often; slower steps each have their own.

It is one picture of a 60 Hz screen, so nobody sees it; at 200 steps a second each wake-up of another process would cost
the decoder one step in twenty.
"""

Piece = tuple[int, str, tuple[int, ...], int]
"""Request, text, token ids, position of the first of them: an entry of `Step`."""


class Inbox(Protocol):
    """Frames from the gateway."""

    def take(self, *, wait: bool) -> Iterable[Frame]:
        """What has arrived; waits for something if asked to."""


@dataclass
class Sequence:
    """One answer on its way, from submission to its last token. Times are in nanoseconds."""

    id: int
    prompt: PromptTokens
    limit: int
    want_context: bool
    submitted: int
    text: TextStream
    sampler: Sampler
    processors: list[Processor]
    handle: int | None = None
    read: int = 0
    answer: list[int] = field(default_factory=list)
    sent_tokens: int = 0
    sent_text: list[str] = field(default_factory=list)


class Engine:
    """Owns the model and every stream on it; all of its methods run on the one MLX thread of the process.

    `send` takes the frames of one turn of the loop. `clock` counts nanoseconds.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        end_tokens: frozenset[int],
        send: Callable[[list[Frame]], None],
        *,
        prefill_slice: float,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._end_tokens = end_tokens
        self._send = send
        self._clock = clock
        self._prefill = Prefill(model, budget=prefill_slice, clock=lambda: clock() / 1e9)
        self._batch: Batch = make_batch(model, end_tokens)
        self._sequences: dict[int, Sequence] = {}
        self._by_handle: dict[int, Sequence] = {}
        self._held: list[Piece] = []
        self._sent = 0

    def run(self, inbox: Inbox) -> None:
        """Serve for ever; the process ends from outside."""
        while True:
            self.turn(inbox.take(wait=not self._sequences))

    def turn(self, arrived: Iterable[Frame]) -> None:
        """One round: arrivals, one budget of prefill, one decode step, one write."""
        out: list[Frame] = []
        for frame in arrived:
            self._handle(frame, out)
        if self._prefill:
            # Reading takes its time; what is already said must not wait for it.
            self._send_held()
            self._guarded(self._read_prompts, out)
        if self._batch:
            self._guarded(self._decode, out)
        if out or self._due():
            self._send_held()
        if out:
            self._send(out)

    def _due(self) -> bool:
        """Whether held pieces have to go: the first of a stream always, the others once an interval."""
        began = any(position == 0 for _, _, _, position in self._held)
        return began or self._clock() - self._sent >= FRAME_INTERVAL_NS

    def _send_held(self) -> None:
        if self._held:
            self._send([Step(tuple(self._held))])
            self._held.clear()
            self._sent = self._clock()

    def _handle(self, frame: Frame, out: list[Frame]) -> None:
        match frame:
            case Submit():
                self._answer_or_fail(frame.id, lambda: self._submit(frame), out)
            case Render():
                self._answer_or_fail(frame.id, lambda: self._render(frame, out), out)
            case Cancel():
                self._cancel(frame.id)
            case Embed():
                out.append(Failed(frame.id, "failed", "this model generates text, it has no embeddings"))
            case _:
                logger.error("a worker got a frame that only workers send: %s", type(frame).__name__)

    def _submit(self, frame: Submit) -> None:
        submitted = self._clock()
        prompt = tokenize(frame.prompt, self._tokenizer)
        sequence = Sequence(
            frame.id,
            prompt,
            _limit(frame, len(prompt.fed)),
            frame.want_context,
            submitted,
            TextStream(frame.sampling.stop),
            make_sampler(frame.sampling),
            make_processors(frame.sampling),
        )
        self._sequences[frame.id] = sequence
        self._prefill.add(frame.id, prompt.fed)

    def _render(self, frame: Render, out: list[Frame]) -> None:
        out.append(RenderedPrompt(frame.id, render(frame.prompt, self._tokenizer)))

    def _answer_or_fail(self, request: int, work: Callable[[], None], out: list[Frame]) -> None:
        try:
            work()
        except MlxOllamaError as error:
            out.append(Failed(request, _failure_kind(error), str(error)))
        # Tokenizers and templates are strangers' code; their faults belong to this request alone.
        except Exception as error:
            logger.exception("request %d could not be prepared", request)
            out.append(Failed(request, "failed", f"{type(error).__name__}: {error}"))

    def _cancel(self, request: int) -> None:
        sequence = self._sequences.pop(request, None)
        if sequence is None:
            return
        if sequence.handle is None:
            self._prefill.remove(request)
        else:
            self._leave_batch(sequence)

    def _read_prompts(self, out: list[Frame]) -> None:
        complete = self._prefill.advance()
        if not complete:
            return
        sequences = [self._sequences[reading.id] for reading in complete]
        streams = [
            Joining(reading.tokens, reading.cache, sequence.sampler, sequence.processors, sequence.limit)
            for sequence, reading in zip(sequences, complete, strict=True)
        ]
        for sequence, handle in zip(sequences, self._batch.join(streams), strict=True):
            sequence.handle = handle
            sequence.read = self._clock()
            self._by_handle[handle] = sequence

    def _decode(self, out: list[Frame]) -> None:
        for sampled in self._batch.step():
            sequence = self._by_handle[sampled.handle]
            reason, text = self._take(sequence, sampled)
            if text:
                self._held.append(_piece(sequence, text))
            if reason:
                out.append(self._finish(sequence, reason))

    def _take(self, sequence: Sequence, sampled: Sampled) -> tuple[Literal["stop", "length"] | None, str]:
        """Add a token to its stream; say why the stream ends, if it does, and what may be sent."""
        sequence.answer.append(sampled.token)
        if sampled.token in self._end_tokens:
            return "stop", sequence.text.flush()
        text = sequence.text.add(self._tokenizer.token_bytes(sampled.token))
        if sequence.text.stopped:
            return "stop", text
        if sampled.ended:
            text += sequence.text.flush()
            return "stop" if sequence.text.stopped else "length", text
        return None, text

    def _finish(self, sequence: Sequence, reason: Literal["stop", "length"]) -> Finished:
        now = self._clock()
        self._leave_batch(sequence)
        del self._sequences[sequence.id]
        return Finished(
            sequence.id,
            reason,
            prompt_tokens=len(sequence.prompt.fed),
            prompt_ns=max(1, sequence.read - sequence.submitted),
            eval_tokens=len(sequence.answer),
            eval_ns=max(1, now - sequence.read),
            context=tuple(self._context(sequence)) if sequence.want_context else None,
        )

    def _context(self, sequence: Sequence) -> list[int]:
        """Prompt and answer as tokens, without the end token or anything that a stop string cut off."""
        if sequence.text.stopped:
            return sequence.prompt.whole + self._tokenizer.encode_plain("".join(sequence.sent_text))
        return sequence.prompt.whole + [token for token in sequence.answer if token not in self._end_tokens]

    def _leave_batch(self, sequence: Sequence) -> None:
        if sequence.handle in self._by_handle:
            del self._by_handle[sequence.handle]
            self._batch.leave([sequence.handle])

    def _guarded(self, work: Callable[[list[Frame]], None], out: list[Frame]) -> None:
        try:
            work(out)
        # An error here has left the batch in an unknown state, and its type is up to mlx and the model's code: every
        # stream on it is told, and the batch starts afresh.
        except Exception as error:
            logger.exception("a step failed; %d requests are lost", len(self._sequences))
            reason = f"{type(error).__name__}: {error}"
            out += [Failed(request, "failed", reason) for request in self._sequences]
            self._start_afresh()

    def _start_afresh(self) -> None:
        for request in self._sequences:
            self._prefill.remove(request)
        self._sequences.clear()
        self._by_handle.clear()
        self._batch.close()
        self._batch = make_batch(self._model, self._end_tokens)


def _limit(frame: Submit, prompt_tokens: int) -> int:
    room = max(1, frame.prompt.context - prompt_tokens)
    wanted = frame.sampling.limit
    return min(room, wanted if wanted > 0 else UNBOUNDED_CONTEXTS * frame.prompt.context)


def _piece(sequence: Sequence, text: str) -> Piece:
    position = sequence.sent_tokens
    tokens = tuple(sequence.answer[position:])
    sequence.sent_tokens = len(sequence.answer)
    sequence.sent_text.append(text)
    return sequence.id, text, tokens, position


def _failure_kind(error: MlxOllamaError) -> Failure:
    if isinstance(error, PromptTooLong):
        return "too_long"
    return "template" if isinstance(error, TemplateFailed) else "failed"
