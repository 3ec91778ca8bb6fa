"""The loop of a worker that embeds: take frames, read some texts, compute one batch, send its vectors."""

import logging
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import orjson

from mlx_ollama import gojson
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.protocol import Cancel, Embed, Embedded, Failed, Frame, Release, Render, Share, Submit
from mlx_ollama.worker.embedder import LoadedEmbedder, Vectors, finished
from mlx_ollama.worker.failure import failure_of, reason_of
from mlx_ollama.worker.spare import release

if TYPE_CHECKING:
    # It stands where mlx-lm is imported, which takes a second.
    from mlx_ollama.worker.engine import Inbox

logger = logging.getLogger(__name__)

FIRST_BATCH_TOKENS = 512
SMALLEST_BATCH_TOKENS = 128
LARGEST_BATCH_TOKENS = {"cpu": 512, "gpu": 8192}
"""On a CPU more at once is slower: what no longer fits its caches is fetched again and again."""

LARGEST_BATCH_TEXTS = 256
SHORT_TOKENS = 32
"""Texts up to this length share a batch whatever their lengths: there is little to lose by filling them up."""

READ_CHARACTERS = 1 << 18
READ_TEXTS = 512
"""As much is tokenised at a time, so that a request of a hundred thousand texts does not hold up a short one."""


@dataclass(frozen=True)
class Text:
    """A text as token ids; `index` is its place in its request."""

    request: int
    index: int
    tokens: list[int]


@dataclass
class Job:
    """A request on its way. `read` texts have been tokenised; those that wait are sorted, the longest last."""

    frame: Embed
    left: int
    read: int = 0
    waiting: list[Text] = field(default_factory=list)


class EmbedEngine:
    """Owns the model; all of its methods run on the one MLX thread of the process.

    Requests take turns, and what is of like length in the others rides along. `slice_seconds` is the time that a batch
    should take, so that cancellations and newcomers never wait long; one text is never cut, though. `limit_memory` is
    told the bytes that the worker may take, `clock` counts nanoseconds.
    """

    def __init__(
        self,
        embedder: LoadedEmbedder,
        send: Callable[[list[Frame]], None],
        *,
        device: Literal["cpu", "gpu"],
        slice_seconds: float,
        limit_memory: Callable[[int], None] = lambda share: None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._embedder = embedder
        self._send = send
        self._limit_memory = limit_memory
        self._slice_ns = slice_seconds * 1e9
        self._clock = clock
        self._jobs: dict[int, Job] = {}
        self._largest = LARGEST_BATCH_TOKENS[device]
        self._batch_tokens = FIRST_BATCH_TOKENS

    def run(self, inbox: "Inbox") -> None:
        """Serve for ever; the process ends from outside."""
        while True:
            self.turn(inbox.take(wait=not self._jobs))

    def turn(self, arrived: Iterable[Frame]) -> None:
        """One round: arrivals, some tokenising, one batch, one write."""
        out: list[Frame] = []
        for frame in arrived:
            self._handle(frame, out)
        self._read(out)
        batch = self._next_batch()
        if batch:
            self._compute(batch, out)
        if out:
            self._send(out)

    def _handle(self, frame: Frame, out: list[Frame]) -> None:
        match frame:
            case Embed() if frame.inputs:
                self._jobs[frame.id] = Job(frame, len(frame.inputs))
            case Embed():
                out.append(Embedded(frame.id, (), 0, 0))
            case Cancel():
                self._jobs.pop(frame.id, None)
            case Release():
                out.append(release(frame))
            case Share():
                self._limit_memory(frame.size)
            case Submit() | Render():
                out.append(Failed(frame.id, "failed", "this model embeds, it does not generate text"))
            case _:
                logger.error("a worker got a frame that only workers send: %s", type(frame).__name__)

    def _read(self, out: list[Frame]) -> None:
        """Tokenise for every request that has nothing ready, until that is enough for one turn."""
        budget = READ_CHARACTERS
        for job in list(self._jobs.values()):
            if job.waiting:
                continue
            texts = _piece(job, READ_CHARACTERS)
            try:
                ids = self._embedder.tokenizer.encode(
                    texts, longest=self._longest(job.frame), truncate=job.frame.truncate
                )
            # A tokenizer is a stranger's code; its faults belong to this request alone.
            except Exception as error:
                if not isinstance(error, InvalidRequest):
                    logger.exception("request %d could not be read", job.frame.id)
                self._fail(job.frame.id, error, out)
                continue
            read = [Text(job.frame.id, job.read + offset, tokens) for offset, tokens in enumerate(ids)]
            job.waiting = sorted(read, key=_length)
            job.read += len(texts)
            budget -= sum(map(len, texts))
            if budget <= 0:
                return

    def _longest(self, frame: Embed) -> int:
        return min(frame.context, self._embedder.longest or frame.context)

    def _next_batch(self) -> list[Text]:
        """The longest text that waits of the request whose turn it is, and others of like length as far as they fit."""
        first = next((job for job in self._jobs.values() if job.waiting), None)
        if first is None:
            return []
        # The others' turns come before its next one.
        self._jobs[first.frame.id] = self._jobs.pop(first.frame.id)
        longest = len(first.waiting[-1].tokens)
        room = max(1, min(LARGEST_BATCH_TEXTS, self._batch_tokens // longest))
        batch: list[Text] = []
        for job in [first, *(job for job in self._jobs.values() if job is not first)]:
            batch += _like(job, longest, room - len(batch))
        return batch

    def _compute(self, batch: Sequence[Text], out: list[Frame]) -> None:
        started = self._clock()
        try:
            vectors = self._embedder.vectors([text.tokens for text in batch])
        # Its type is up to mlx and the model's code; whoever has a text in the batch is told.
        except Exception as error:
            logger.exception("a batch of %d texts failed", len(batch))
            for request in {text.request for text in batch}:
                self._fail(request, error, out)
            return
        self._learn(batch, self._clock() - started)
        for request in dict.fromkeys(text.request for text in batch):
            rows = [row for row, text in enumerate(batch) if text.request == request]
            self._answer(self._jobs[request], [batch[row] for row in rows], vectors[rows], out)

    def _answer(self, job: Job, texts: Sequence[Text], vectors: Vectors, out: list[Frame]) -> None:
        frame = job.frame
        try:
            vectors = finished(vectors, normalize=frame.normalize, dimensions=frame.dimensions)
        except InvalidRequest as error:
            self._fail(frame.id, error, out)
            return
        job.left -= len(texts)
        if not job.left:
            del self._jobs[frame.id]
        numbered = zip((text.index for text in texts), _written(vectors), strict=True)
        out.append(Embedded(frame.id, tuple(numbered), sum(map(_length, texts)), job.left))

    def _fail(self, request: int, error: Exception, out: list[Frame]) -> None:
        if self._jobs.pop(request, None) is not None:
            out.append(Failed(request, failure_of(error), reason_of(error)))

    def _learn(self, batch: Sequence[Text], nanoseconds: int) -> None:
        """Size the next batch by the speed of this one, by a factor of two at most: short ones tell little."""
        tokens = len(batch) * max(map(_length, batch))
        fitting = int(tokens * self._slice_ns / max(1, nanoseconds))
        bounded = max(self._batch_tokens // 2, min(self._batch_tokens * 2, fitting))
        self._batch_tokens = max(SMALLEST_BATCH_TOKENS, min(self._largest, bounded))


def _length(text: Text) -> int:
    return len(text.tokens)


def _piece(job: Job, characters: int) -> tuple[str, ...]:
    """The next texts to tokenise: at least one, then as many as stay within bounds."""
    end = job.read
    for text in job.frame.inputs[job.read : job.read + READ_TEXTS]:
        characters -= len(text)
        end += 1
        if characters <= 0:
            break
    return job.frame.inputs[job.read : end]


def _like(job: Job, longest: int, room: int) -> list[Text]:
    """Take the longest texts up to `longest` tokens out of those that wait, at most `room`, none much shorter."""
    end = bisect_right(job.waiting, longest, key=_length)
    start = end
    while start and end - start < room:
        length = len(job.waiting[start - 1].tokens)
        if length * 2 < longest and longest > SHORT_TOKENS:
            break
        start -= 1
    taken = job.waiting[start:end]
    del job.waiting[start:end]
    return taken


def _written(vectors: Vectors) -> Iterator[str]:
    """Float32 numbers by the fewest digits that tell them apart, as clients see them."""
    for row in np.ascontiguousarray(vectors):
        yield gojson.like_go(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)).decode()
