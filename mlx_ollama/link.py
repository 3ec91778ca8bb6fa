"""One worker process as the gateway sees it: started, spoken to in frames, ended."""

import asyncio
import itertools
import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import cast

from mlx_ollama.environment import of_workers
from mlx_ollama.errors import (
    GenerationFailed,
    InvalidRequest,
    LoadFailed,
    MlxOllamaError,
    OutOfMemory,
    WorkerDied,
)
from mlx_ollama.framing import Decoder, ProtocolError, encode
from mlx_ollama.last_words import NEXT, error_of, obituary
from mlx_ollama.mailbox import Mailbox
from mlx_ollama.protocol import (
    Cancel,
    Embed,
    Embedded,
    Failed,
    Finished,
    Frame,
    Known,
    Load,
    Ping,
    Pong,
    Prompt,
    Ready,
    Release,
    Released,
    Render,
    RenderedPrompt,
    Sampling,
    Share,
    Spare,
    Step,
    Submit,
    Unloadable,
)
from mlx_ollama.pulse import Care, Pulse
from mlx_ollama.types import Delta, Done, Event, Recalled, Rendered, Usage, Vectors
from mlx_ollama.workerlog import WorkerLog

logger = logging.getLogger(__name__)

SOCKET_BUFFER_BYTES = 1 << 20
"""macOS gives a socketpair 8 KiB, less than one long prompt."""

LAST_WORDS_SECONDS = 1.0
"""For what a worker said before it died."""

RELEASE_SECONDS = 1.0
"""How long a worker may take to give memory back. One that is in the middle of a prompt does it after its slice."""

Verdict = Callable[[int | None, str], MlxOllamaError]
"""From a process' exit status, and how people are told of it, to what its end means for those who wait."""


class WorkerLink(asyncio.Protocol):
    """A running worker. Made by `start`, usable until `alive` turns false, then made anew by whoever owns it."""

    def __init__(self, process: asyncio.subprocess.Process, log: WorkerLog, care: Care, verdict: Verdict) -> None:
        self.process = process
        self._care = care
        self._pulse = Pulse(care)
        self._nurse: asyncio.Task[None] | None = None
        self._fault = ""
        self._is_excused = False
        self._log = log
        self._verdict = verdict
        self._releases: deque[asyncio.Future[Released]] = deque()
        self.died = asyncio.Event()
        self._ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._decoder = Decoder()
        self._mailboxes: dict[int, Mailbox] = {}
        self._ids = itertools.count(1)
        self._reaper: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        *,
        device: str,
        prefill_slice: float,
        log_level: str,
        prompt_cache_bytes: int,
        prompt_cache_chooser: str,
        home: Path,
        care: Care,
        verdict: Verdict,
    ) -> "WorkerLink":
        """Start a worker, which then waits for its model (`load`). `verdict` judges its end.

        It is looked after from now on, while it loads, too, and ended if it answers no more.

        The worker gets a session of its own, so that Ctrl-C in a terminal reaches the gateway only.
        """
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
        said, log = await WorkerLog.open()
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "mlx_ollama.worker", "--fd", str(theirs.fileno())),
                    *("--device", device),
                    *("--prefill-slice", str(prefill_slice), "--log-level", log_level),
                    *("--prompt-cache-bytes", str(prompt_cache_bytes), "--prompt-cache-chooser", prompt_cache_chooser),
                    *("--home", str(home)),
                    env=of_workers(),
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=said,
                )
        finally:
            os.close(said)
        log.worker = process.pid
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        _, link = await loop.create_connection(lambda: cls(process, log, care, verdict), sock=ours)
        return link

    @property
    def alive(self) -> bool:
        """Whether requests can be sent; false from the moment in which the socket closes, before anybody is told."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def fell(self) -> bool:
        """Whether it is dead, though nobody has ended it and it has said nothing of a model that cannot be loaded."""
        return self.died.is_set() and (bool(self._fault) or not self._is_excused)

    def load(self, directory: Path) -> None:
        """Have the worker load its model; `loaded` tells when it can be used, or that it is gone."""
        with suppress(WorkerDied, OutOfMemory):
            self._send(Load(str(directory)))

    async def settled(self) -> None:
        """Wait until the model is loaded or cannot be."""
        await asyncio.wait([self._ready])

    async def loaded(self, within: float) -> Ready:
        """Wait until the model is loaded, for `within` seconds at most.

        Raises:
            LoadFailed, OutOfMemory: with the worker's reason, or how the process ended.
        """
        try:
            return await asyncio.wait_for(asyncio.shield(self._ready), within)
        except TimeoutError:
            await self.stop()
            raise LoadFailed(f"loading the model took longer than {within:g} s (MLX_API_LOAD_TIMEOUT)") from None

    def generate(
        self,
        prompt: Prompt,
        sampling: Sampling,
        *,
        want_context: bool,
        grammar: str = "",
        resume: tuple[int, ...] = (),
    ) -> AsyncGenerator[Event | Recalled, None]:
        """The events of one answer, the last one `Done`, with `Recalled` in front.

        Of the answer the tokens of `resume` are known; events go on behind them. Closing the generator early cancels
        the generation.

        Raises:
            WorkerError, InvalidRequest, TemplateFailed: as the worker says, or because it died.
        """
        request = next(self._ids)
        # Vectors answer nothing but `Embed`.
        answer = self._conversation(request, Submit(request, prompt, sampling, want_context, grammar, resume))
        return cast("AsyncGenerator[Event | Recalled, None]", answer)

    async def render(self, prompt: Prompt) -> Rendered:
        """The prompt as text, and how many tokens that is.

        Raises:
            WorkerError, TemplateFailed: as above.
        """
        request = next(self._ids)
        events = [event async for event in self._conversation(request, Render(request, prompt))]
        rendered = events[-1]
        if not isinstance(rendered, Rendered):
            raise GenerationFailed("the worker did not render the prompt")
        return rendered

    async def embed(
        self, inputs: tuple[str, ...], *, context: int, truncate: bool, normalize: bool, dimensions: int
    ) -> AsyncGenerator[Vectors, None]:
        """Vectors of texts, in pieces and in any order. Closing the generator early cancels the work.

        Raises:
            WorkerError, InvalidRequest: as the worker says, or because it died.
        """
        request = next(self._ids)
        opening = Embed(request, inputs, context, truncate, normalize, dimensions)
        async with aclosing(self._conversation(request, opening)) as events:
            async for event in events:
                if isinstance(event, Vectors):
                    yield event

    async def release(self, share: Spare | None) -> Released | None:
        """Have the worker give back memory that it does not need now; None from one that is busy or gone.

        With `share` None it keeps everything and only tells what it could give back.
        """
        released: asyncio.Future[Released] = asyncio.get_running_loop().create_future()
        with suppress(WorkerDied, OutOfMemory, TimeoutError):
            self._send(Release(share))
            self._releases.append(released)
            return await asyncio.wait_for(released, RELEASE_SECONDS)
        return None

    def grant(self, share: int) -> None:
        """Tell it how many bytes of the GPU's memory it may take; nothing if it is gone."""
        with suppress(WorkerDied, OutOfMemory):
            self._send(Share(share))

    def fail(self, error: Exception) -> None:
        """Give every request up with `error`; the worker hears of it as cancellations."""
        for mailbox in self._mailboxes.values():
            mailbox.put(error)

    async def stop(self) -> None:
        """End the process: its socket closes, then SIGTERM's patience, then SIGKILL."""
        self._is_excused = True
        if self._transport is not None:
            self._transport.abort()
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), self._care.grace)
        except TimeoutError:
            with suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
        await self.died.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport
            self._nurse = asyncio.get_running_loop().create_task(self._look_after())

    def data_received(self, data: bytes) -> None:
        self._pulse.heard()
        try:
            for frame in self._decoder.feed(data):
                self._dispatch(frame)
        except ProtocolError:
            logger.exception("worker %d sent something that is no frame", self.process.pid)
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._nurse is not None and not self._fault:
            self._nurse.cancel()
        self._reaper = asyncio.get_running_loop().create_task(self._reap())

    async def _look_after(self) -> None:
        def ask() -> None:
            with suppress(WorkerDied, OutOfMemory):
                self._send(Ping())

        self._fault = await self._pulse.stopped(ask)
        logger.error("worker %d %s and is ended", self.process.pid, self._fault)
        await self.stop()

    async def _conversation(
        self, request: int, opening: Submit | Render | Embed
    ) -> AsyncGenerator[Event | Recalled | Vectors, None]:
        mailbox = self._mailboxes[request] = Mailbox()
        finished = False
        try:
            self._send(opening)
            while True:
                for event in await mailbox.take():
                    if isinstance(event, Exception):
                        raise event
                    finished = not (event.left if isinstance(event, Vectors) else isinstance(event, Delta | Recalled))
                    yield event
                    if finished:
                        return
        finally:
            del self._mailboxes[request]
            if not finished:
                with suppress(WorkerDied, OutOfMemory):
                    self._send(Cancel(request))

    def _send(self, frame: Frame) -> None:
        if self._transport is None or self._transport.is_closing():
            raise self._end(self.process.returncode)
        try:
            self._transport.write(encode(frame))
        except ProtocolError as error:
            raise InvalidRequest(f"exceeded max depth: {error}") from error

    def _dispatch(self, frame: Frame) -> None:  # noqa: C901 - one case for each kind of frame
        match frame:
            case Step(deltas):
                for request, delta in deltas:
                    self._deliver(request, delta)
            case Known():
                self._deliver(frame.id, Recalled(frame.reused, frame.differs_at, frame.was, frame.now))
            case Finished():
                usage = Usage(frame.prompt_tokens, frame.prompt_ns, frame.eval_tokens, frame.eval_ns)
                self._deliver(frame.id, Done(frame.reason, usage, frame.context))
            case Failed():
                self._deliver(frame.id, error_of(frame))
            case Embedded():
                self._deliver(frame.id, Vectors(frame.vectors, frame.tokens, frame.left))
            case RenderedPrompt():
                self._deliver(frame.id, Rendered(frame.text, frame.tokens))
            case Ready() if not self._ready.done():
                self._ready.set_result(frame)
            case Unloadable() if not self._ready.done():
                self._is_excused = True
                self._ready.set_exception((OutOfMemory if frame.kind == "memory" else LoadFailed)(frame.reason))
            case Released() if self._releases:
                self._released(self._releases.popleft(), frame)
            case Pong():
                # Loading has a limit of its own.
                self._pulse.at_step(frame.step if self._ready.done() else 0)
            case _:
                logger.error("worker %d sent an unexpected %s", self.process.pid, type(frame).__name__)

    def _released(self, waiting: "asyncio.Future[Released]", frame: Released) -> None:
        """Whoever asked may have had no patience; the answer was theirs all the same."""
        if not waiting.done():
            waiting.set_result(frame)

    def _deliver(self, request: int, event: Event | Recalled | Vectors | Exception) -> None:
        mailbox = self._mailboxes.get(request)
        if mailbox is not None:
            mailbox.put(event)

    async def _reap(self) -> None:
        """The socket is closed: learn how the process ended, and tell everyone who waits."""
        try:
            status = await asyncio.wait_for(self.process.wait(), self._care.grace)
        except TimeoutError:
            with suppress(ProcessLookupError):
                self.process.kill()
            status = await self.process.wait()
        await self._log.end(LAST_WORDS_SECONDS)
        self.died.set()
        end = self._end(status)
        if not self._ready.done():
            self._ready.set_exception(end if isinstance(end, OutOfMemory) else LoadFailed(end.message))
        # Nobody may be waiting for the load any more; its failure is then no news.
        self._ready.exception()
        for mailbox in self._mailboxes.values():
            mailbox.put(end)

    def _end(self, status: int | None) -> MlxOllamaError:
        if self._fault:
            return WorkerDied(f"the model worker {self._fault} and was ended; {NEXT}")
        return self._verdict(status, obituary(status))
