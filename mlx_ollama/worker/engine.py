"""The loop of a worker: take frames, read prompts for a while, decode one step, send what came of it."""

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from mlx_ollama.errors import MlxOllamaError
from mlx_ollama.protocol import (
    Cancel,
    Embed,
    Failed,
    Finished,
    Frame,
    Known,
    Piece,
    Release,
    Render,
    RenderedPrompt,
    Share,
    Step,
    Submit,
)
from mlx_ollama.worker.batch import LARGEST_BATCH, Batch, Joining, Left, Sampled
from mlx_ollama.worker.failure import failure_of, reason_of
from mlx_ollama.worker.grammar import Grammars
from mlx_ollama.worker.likelihood import Likelihood
from mlx_ollama.worker.pacing import Pacing
from mlx_ollama.worker.prefill import Prefill, Reading
from mlx_ollama.worker.prefixes import Prefixes
from mlx_ollama.worker.preparing import Outcome, Prepared, Preparing, Ready
from mlx_ollama.worker.prompt import kind_of
from mlx_ollama.worker.sampling import make_processors, make_sampler
from mlx_ollama.worker.spare import release
from mlx_ollama.worker.stream import EndReason, Stream
from mlx_ollama.worker.text import TextStream
from mlx_ollama.worker.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

FRAME_INTERVAL_NS = 32_000_000
"""Pieces of quick steps share a frame, so that the gateway wakes at most so often; slower steps each have their own.

It is two pictures of a 60 Hz screen, so nobody sees it; at 200 steps a second each wake-up of another process would
cost the decoder one step in twenty.
"""


BACKGROUND_WAIT_SECONDS = 0.02
"""How long an engine with nothing else to do waits for a grammar or a long prompt before it looks for frames again."""


class Inbox(Protocol):
    """Frames from the gateway."""

    def take(self, *, wait: bool) -> Iterable[Frame]:
        """What has arrived; waits for something if asked to."""


class Engine:
    """Owns the model and every stream on it; all of its methods run on the one MLX thread of the process.

    `send` takes the frames of one turn of the loop, `new_batch` makes an empty batch, `prefixes` remembers what was
    read. With `is_exact` what another worker has said is read as it was said, token by token, which takes as long.
    `prefill_slice` is in seconds, `clock` counts nanoseconds; `limit_memory` is told the bytes that the
    worker may take.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        end_tokens: frozenset[int],
        send: Callable[[list[Frame]], None],
        *,
        prefill_slice: float,
        new_batch: Callable[[], Batch],
        prefixes: Prefixes | None = None,
        is_exact: bool = False,
        limit_memory: Callable[[int], None] = lambda share: None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._tokenizer = tokenizer
        self._end_tokens = end_tokens
        self._send = send
        self._clock = clock
        self._pacing = Pacing(int(prefill_slice * 1e9), clock)
        self._new_batch = new_batch
        self._is_exact = is_exact
        self._limit_memory = limit_memory
        self._prefixes = Prefixes(0) if prefixes is None else prefixes
        self._prefill = Prefill(model, self._prefixes, clock=lambda: clock() / 1e9)
        self._preparing = Preparing(tokenizer, needs_marks=self._prefill.needs_marks, clock=clock)
        self._grammars = Grammars(tokenizer, end_tokens)
        self._batch = new_batch()
        self._arrived: deque[Submit | Render] = deque()
        self._streams: dict[int, Stream] = {}
        self._read: list[Reading] = []
        self._by_handle: dict[int, Stream] = {}
        self._known: list[Frame] = []
        self._held: list[Piece] = []
        self._sent = 0

    def run(self, inbox: Inbox) -> None:
        """Serve for ever; the process ends from outside."""
        while True:
            self.turn(inbox.take(wait=not self.busy))

    @property
    def busy(self) -> bool:
        """Whether there is anything to do before the next frame arrives."""
        return bool(self._streams or self._arrived or self._preparing)

    def turn(self, arrived: Iterable[Frame]) -> None:
        """One round: arrivals, then a pass of reading or a step of decoding, and one write."""
        out: list[Frame] = []
        for frame in arrived:
            self._receive(frame, out)
        self._prepare(out)
        if budget := self._next_pass():
            # Reading takes its time; what is already said must not wait for it.
            self._send_held()
            self._read_prompts(budget, out)
        else:
            self._step(out)
        if out or self._due():
            self._send_held()
        if out:
            self._send(out)

    def _due(self) -> bool:
        """Whether what is held has to go: the first words of a stream always, the others once an interval."""
        began = any(delta.position == 0 for _, delta in self._held) or (self._known and self._prefill)
        return bool(began) or self._clock() - self._sent >= FRAME_INTERVAL_NS

    def _send_held(self) -> None:
        if self._known or self._held:
            self._send([*self._known, *([Step(tuple(self._held))] if self._held else [])])
            self._known.clear()
            self._held.clear()
            self._sent = self._clock()

    def _receive(self, frame: Frame, out: list[Frame]) -> None:
        match frame:
            case Submit() | Render():
                self._arrived.append(frame)
            case Cancel():
                self._cancel(frame.id, out)
            case Release():
                out.append(release(frame, self._prefixes))
            case Share():
                self._limit_memory(frame.size)
            case Embed():
                out.append(Failed(frame.id, "failed", "this model generates text, it has no embeddings"))
            case _:
                logger.error("a worker got a frame that only workers send: %s", type(frame).__name__)

    def _prepare(self, out: list[Frame]) -> None:
        """Render and tokenise what has arrived, for one slice of time, so that running answers wait no longer."""
        deadline = self._clock() + self._pacing.slice
        is_idle = not (self._arrived or self._streams)
        outcomes = self._preparing.done(within=BACKGROUND_WAIT_SECONDS if is_idle else 0)
        for done in outcomes:
            self._begin(done, out)
        while self._arrived:
            if outcome := self._preparing.begin(self._arrived.popleft()):
                self._begin(outcome, out)
            if self._clock() >= deadline:
                break

    def _begin(self, outcome: Outcome, out: list[Frame]) -> None:
        request, prepared = outcome
        self._alone(request, lambda: self._take_up(prepared(), out), out)

    def _take_up(self, prepared: Prepared, out: list[Frame]) -> None:
        if isinstance(prepared, RenderedPrompt):
            out.append(prepared)
        else:
            self._submit(prepared, out)

    def _submit(self, ready: Ready, out: list[Frame]) -> None:
        frame, prompt = ready.frame, ready.prompt
        sampling = frame.sampling
        stream = self._streams[frame.id] = Stream(
            frame.id,
            prompt,
            _limit(frame, len(prompt.fed)),
            frame.want_context,
            ready.came,
            TextStream(sampling.stop),
            ready.parser,
            make_sampler(sampling, len(frame.resume)),
            make_processors(sampling),
            likelihood=None
            if sampling.logprobs is None
            else Likelihood(sampling.logprobs, self._tokenizer.token_bytes),
            kind=kind_of(frame.prompt),
            schema=frame.grammar,
            grammar=self._grammars.compile(frame.grammar) if frame.grammar else None,
        )
        if reason := stream.replay(frame.resume, self._tokenizer.token_bytes, self._end_tokens):
            # Only the word that it is complete was lost with the other worker.
            stream.read = self._clock()
            out.append(self._finish(stream, reason))
        else:
            singly_from = len(prompt.fed) - 1 if stream.answer and self._is_exact else None
            self._prefill.add(frame.id, prompt.fed + stream.answer, stream.kind, ready.marks, singly_from)

    def _alone(self, request: int, work: Callable[[], None], out: list[Frame]) -> None:
        """Do work for one request: tokenizers, templates and grammars are strangers' code, and may fail it alone."""
        try:
            work()
        except Exception as error:
            if not isinstance(error, MlxOllamaError):
                logger.exception("request %d failed", request)
            self._fail(request, error, out)

    def _fail(self, request: int, error: Exception, out: list[Frame]) -> None:
        self._cancel(request, out)
        out.append(Failed(request, failure_of(error), reason_of(error)))

    def _cancel(self, request: int, out: list[Frame]) -> None:
        self._arrived = deque(frame for frame in self._arrived if frame.id != request)
        self._preparing.cancel(request)
        stream = self._streams.pop(request, None)
        if stream is None:
            return
        if stream.grammar is not None:
            # Nobody else shall wait for what nobody wants any more.
            stream.grammar.cancel()
        if stream.handle is None:
            self._prefill.remove(request)
            self._read = [reading for reading in self._read if reading.id != request]
        else:
            self._together(lambda: self._leave_batch(stream), out)

    def _next_pass(self) -> int:
        """Nanoseconds of reading that are next; 0 where a step is."""
        ready = sum(self._streams[reading.id].is_ready for reading in self._read)
        return self._pacing.next_pass(self._prefill, room=self._room, ready=ready, decoding=len(self._batch))

    @property
    def _room(self) -> int:
        """How many prompts may be read yet: each has a place in the batch."""
        return LARGEST_BATCH - len(self._batch) - len(self._read)

    def _read_prompts(self, budget: int, out: list[Frame]) -> None:
        begun, complete = self._prefill.advance(self._room, budget / 1e9)
        self._known += map(self._told, begun)
        for reading in complete:
            if reading.failure is not None:
                self._fail(reading.id, reading.failure, out)
            else:
                self._read.append(reading)

    def _told(self, reading: Reading) -> Known:
        """What is known of a prompt whose reading begins."""
        where = reading.difference
        if where is None:
            return Known(reading.id, reading.reused)
        was, now = (self._tokenizer.decode([token]) for token in (where.was, where.now))
        return Known(reading.id, reading.reused, where.at, was, now)

    def _step(self, out: list[Frame]) -> None:
        if self._read:
            self._join(out)
        if self._batch:
            self._decode(out)

    def _join(self, out: list[Frame]) -> None:
        """Let streams into the batch whose prompts are read and whose grammars are ready."""
        ready: list[Reading] = []
        waiting: list[Reading] = []
        for reading in self._read:
            (ready if self._streams[reading.id].is_ready else waiting).append(reading)
        self._read = waiting
        for reading in ready:
            stream = self._streams[reading.id]
            self._alone(stream.id, partial(stream.prepare, self._tokenizer, self._end_tokens), out)
        ready = [reading for reading in ready if reading.id in self._streams]
        self._together(lambda: self._enter(ready), out, {reading.id for reading in ready})
        if self._read and not (ready or self._batch):
            time.sleep(BACKGROUND_WAIT_SECONDS)

    def _enter(self, ready: list[Reading]) -> None:
        streams = [self._streams[reading.id] for reading in ready]
        joining = [
            Joining(reading.tokens, reading.cache, stream.sampler, stream.processors, stream.limit - len(stream.answer))
            for stream, reading in zip(streams, ready, strict=True)
        ]
        for stream, handle in zip(streams, self._batch.join(joining) if joining else [], strict=True):
            stream.handle = handle
            stream.read = self._clock()
            self._by_handle[handle] = stream

    def _decode(self, out: list[Frame]) -> None:
        sampled: list[Sampled] = []
        began = self._clock()
        self._together(lambda: sampled.extend(self._batch.step()), out)
        if sampled:
            self._pacing.step = self._clock() - began
        for token in sampled:
            stream = self._by_handle.get(token.handle)
            if stream is None:
                # It has ended with the token before.
                continue
            if token.failure is None:
                self._alone(stream.id, partial(self._take, stream, token, out), out)
            else:
                self._grammars.forget(stream.schema)
                self._fail(stream.id, token.failure, out)

    def _take(self, stream: Stream, sampled: Sampled, out: list[Frame]) -> None:
        reason = stream.add(
            sampled.token,
            self._tokenizer.token_bytes(sampled.token),
            is_end=sampled.token in self._end_tokens,
            is_last=sampled.ended,
        )
        if (delta := stream.take()) is not None:
            self._held.append((stream.id, delta))
        if reason:
            if sampled.left:
                self._remember(stream, sampled.left)
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
            if (left := self._batch.leave(stream.handle)) is not None:
                self._remember(stream, left)

    def _remember(self, stream: Stream, left: Left) -> None:
        """The next turn of a conversation begins with this one."""
        self._prefixes.keep(stream.kind, left.tokens, left.cache)

    def _together(self, work: Callable[[], None], out: list[Frame], joining: Collection[int] = ()) -> None:
        """Do work on the whole batch, in which the streams of the requests `joining` may have got or not.

        An error in it leaves the batch in an unknown state, and its type is up to mlx and the model's code: every
        stream on it is told, and the batch starts afresh. Prompts that are still being read are not touched.
        """
        try:
            work()
        except Exception as error:
            lost = [stream for stream in self._streams.values() if stream.handle is not None or stream.id in joining]
            logger.exception("the batch failed; %d answers are lost", len(lost))
            self._by_handle.clear()
            for stream in lost:
                del self._streams[stream.id]
                out.append(Failed(stream.id, failure_of(error), reason_of(error)))
            with suppress(Exception):
                self._batch.close()
            self._batch = self._new_batch()


def _limit(frame: Submit, prompt_tokens: int) -> int:
    room = max(1, frame.prompt.context - prompt_tokens)
    wanted = frame.sampling.limit
    return min(room, wanted) if wanted > 0 else room
