"""From what a caller sent to what a model reads; a long prompt is made ready beside the answers under way."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial

from mlx_ollama.protocol import Prompt, Render, RenderedPrompt, Submit
from mlx_ollama.worker.marks import marks_of
from mlx_ollama.worker.parse.choice import make_parser
from mlx_ollama.worker.parse.parser import Parser
from mlx_ollama.worker.prompt import PromptTokens, render, tokenize
from mlx_ollama.worker.tokenizer import Tokenizer

LONG_CHARACTERS = 1 << 14
"""Rendering and tokenising more than this takes longer than a step."""


@dataclass(frozen=True)
class Ready:
    """A prompt as tokens, what reads the answer, the places in which to remember it, and when it came (nanoseconds)."""

    frame: Submit
    prompt: PromptTokens
    parser: Parser
    marks: Sequence[int]
    came: int


Prepared = Ready | RenderedPrompt
Outcome = tuple[int, Callable[[], Prepared]]
"""A request, and what it came to; asking for that may raise what went wrong."""


class Preparing:
    """Long prompts have a thread, which works on one after the other; tokenizers let go of the interpreter meanwhile.

    `needs_marks` is whether the model's caches have to be remembered in places.
    """

    def __init__(self, tokenizer: Tokenizer, *, needs_marks: bool, clock: Callable[[], int]) -> None:
        self._tokenizer = tokenizer
        self._needs_marks = needs_marks
        self._clock = clock
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prompt")
        self._running: dict[int, Future[Prepared]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def begin(self, frame: Submit | Render) -> Outcome | None:
        """What a frame comes to; None where that takes longer, and `done` has it later."""
        work = partial(self._prepare, frame, self._clock())
        if _length(frame.prompt) < LONG_CHARACTERS:
            return frame.id, work
        self._running[frame.id] = self._pool.submit(work)
        return None

    def done(self, *, within: float = 0.0) -> list[Outcome]:
        """What has come to its end, after waiting for something to do so for some seconds."""
        if within:
            wait(self._running.values(), timeout=within, return_when="FIRST_COMPLETED")
        ready = [request for request, future in self._running.items() if future.done()]
        return [(request, self._running.pop(request).result) for request in ready]

    def cancel(self, request: int) -> None:
        """Forget a frame; what is being done for it has no consequence."""
        if request in self._running:
            self._running.pop(request).cancel()

    def _prepare(self, frame: Submit | Render, came: int) -> Prepared:
        if isinstance(frame, Render):
            text = render(frame.prompt, self._tokenizer)
            return RenderedPrompt(frame.id, text, len(self._tokenizer.encode(text)))
        prompt = tokenize(frame.prompt, self._tokenizer)
        marks = marks_of(frame.prompt, prompt.fed, self._tokenizer) if self._needs_marks else ()
        return Ready(frame, prompt, make_parser(frame.prompt, self._tokenizer, prompt.text), marks, came)


def _length(prompt: Prompt) -> int:
    """In characters, about: of all that is read, and of the template, which takes as long to understand."""
    said = sum(len(message.content) + len(message.thinking) for message in prompt.messages)
    called = sum(len(str(call.arguments)) for message in prompt.messages for call in message.tool_calls)
    tools = sum(len(str(tool)) for tool in prompt.tools)
    return said + called + tools + sum(map(len, (prompt.text, prompt.suffix, prompt.prefix, prompt.template or "")))
