"""The loop of a worker: take frames, read prompts for a while, decode one step, send what came of it."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from mlx_ollama.errors import MlxOllamaError, PromptTooLong, TemplateFailed
from mlx_ollama.protocol import (
    Cancel,
    Failed,
    Failure,
    Finished,
    Frame,
    Piece,
    Render,
    RenderedPrompt,
    Step,
    Submit,
)
from mlx_ollama.worker.batch import Batch, Joining, make_batch
from mlx_ollama.worker.likelihood import Likelihood
from mlx_ollama.worker.parse.choice import make_parser
from mlx_ollama.worker.prefill import Prefill
from mlx_ollama.worker.prompt import render, tokenize
from mlx_ollama.worker.sampling import make_processors, make_sampler
from mlx_ollama.worker.stream import EndReason, Stream
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


class Inbox(Protocol):
    """Frames from the gateway."""

    def take(self, *, wait: bool) -> Iterable[Frame]:
        """What has arrived; waits for something if asked to."""


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
        self._streams: dict[int, Stream] = {}
        self._by_handle: dict[int, Stream] = {}
        self._held: list[Piece] = []
        self._sent = 0

    def run(self, inbox: Inbox) -> None:
        """Serve for ever; the process ends from outside."""
        while True:
            self.turn(inbox.take(wait=not self._streams))

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
        began = any(delta.position == 0 for _, delta in self._held)
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
            case _:
                logger.error("a worker got a frame that only workers send: %s", type(frame).__name__)

    def _submit(self, frame: Submit) -> None:
        submitted = self._clock()
        prompt = tokenize(frame.prompt, self._tokenizer)
        sampling = frame.sampling
        likelihood = None
        if sampling.logprobs is not None:
            likelihood = Likelihood(sampling.logprobs, self._tokenizer.token_bytes)
        self._streams[frame.id] = Stream(
            frame.id,
            prompt,
            _limit(frame, len(prompt.fed)),
            frame.want_context,
            submitted,
            TextStream(sampling.stop),
            make_parser(frame.prompt, self._tokenizer, prompt.text),
            make_sampler(sampling),
            [*([likelihood] if likelihood else []), *make_processors(sampling)],
            likelihood,
        )
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
        stream = self._streams.pop(request, None)
        if stream is None:
            return
        if stream.handle is None:
            self._prefill.remove(request)
        else:
            self._leave_batch(stream)

    def _read_prompts(self, out: list[Frame]) -> None:
        complete = self._prefill.advance()
        if not complete:
            return
        streams = [self._streams[reading.id] for reading in complete]
        joining = [
            Joining(reading.tokens, reading.cache, stream.sampler, stream.processors, stream.limit)
            for stream, reading in zip(streams, complete, strict=True)
        ]
        for stream, handle in zip(streams, self._batch.join(joining), strict=True):
            stream.handle = handle
            stream.read = self._clock()
            self._by_handle[handle] = stream

    def _decode(self, out: list[Frame]) -> None:
        for sampled in self._batch.step():
            stream = self._by_handle[sampled.handle]
            reason = stream.add(
                sampled.token,
                self._tokenizer.token_bytes(sampled.token),
                is_end=sampled.token in self._end_tokens,
                is_last=sampled.ended,
            )
            if (delta := stream.take()) is not None:
                self._held.append((stream.id, delta))
            if reason:
                out.append(self._finish(stream, reason))

    def _finish(self, stream: Stream, reason: EndReason) -> Finished:
        now = self._clock()
        self._leave_batch(stream)
        del self._streams[stream.id]
        return Finished(
            stream.id,
            reason,
            prompt_tokens=len(stream.prompt.fed),
            prompt_ns=max(1, stream.read - stream.submitted),
            eval_tokens=len(stream.answer),
            eval_ns=max(1, now - stream.read),
            context=tuple(self._context(stream)) if stream.want_context else None,
        )

    def _context(self, stream: Stream) -> list[int]:
        """Prompt and answer as tokens, without the end token or anything that a stop string cut off."""
        if stream.text.stopped:
            return stream.prompt.whole + self._tokenizer.encode_plain("".join(stream.raw))
        return stream.prompt.whole + [token for token in stream.answer if token not in self._end_tokens]

    def _leave_batch(self, stream: Stream) -> None:
        if stream.handle in self._by_handle:
            del self._by_handle[stream.handle]
            self._batch.leave([stream.handle])

    def _guarded(self, work: Callable[[list[Frame]], None], out: list[Frame]) -> None:
        try:
            work(out)
        # An error here has left the batch in an unknown state, and its type is up to mlx and the model's code: every
        # stream on it is told, and the batch starts afresh.
        except Exception as error:
            logger.exception("a step failed; %d requests are lost", len(self._streams))
            reason = f"{type(error).__name__}: {error}"
            out += [Failed(request, "failed", reason) for request in self._streams]
            self._start_afresh()

    def _start_afresh(self) -> None:
        for request in self._streams:
            self._prefill.remove(request)
        self._streams.clear()
        self._by_handle.clear()
        self._batch.close()
        self._batch = make_batch(self._model, self._end_tokens)


def _limit(frame: Submit, prompt_tokens: int) -> int:
    room = max(1, frame.prompt.context - prompt_tokens)
    wanted = frame.sampling.limit
    return min(room, wanted if wanted > 0 else UNBOUNDED_CONTEXTS * frame.prompt.context)


def _failure_kind(error: MlxOllamaError) -> Failure:
    if isinstance(error, PromptTooLong):
        return "too_long"
    return "template" if isinstance(error, TemplateFailed) else "failed"
