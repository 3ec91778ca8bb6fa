"""The frames between the gateway and a worker; nothing else crosses (`framing.py` makes bytes of them).

One `Step` carries what a decode step, or several quick ones, produced for every stream in the batch.
"""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from mlx_ollama.types import Delta, Message

PromptStyle = Literal["chat", "fill", "raw"]
Piece: TypeAlias = tuple[int, Delta]
"""A part of the answer to a request, by the request's id."""

Failure = Literal["invalid", "too_long", "template", "failed", "memory"]
Spare = Literal["buffers", "prefixes"]
"""What a worker can give back: MLX's pool of freed arrays, and cached prompts that no answer uses."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. `seed` is settled by the gateway, so that a stream can be continued elsewhere.

    `limit` is the most tokens to sample, 0 for as many as the context holds. `logprobs` asks for the likelihood of each
    token and of as many of the likeliest in its place; None for none of that.
    """

    seed: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repeat_last_n: int
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    stop: tuple[str, ...]
    limit: int
    logprobs: int | None = None


@dataclass(frozen=True)
class Prompt:
    """What to read, still as messages or text: only the worker has the tokenizer.

    `template` is Go's TEMPLATE language; None stands for the model's own Jinja chat template. `prefix` are token ids of
    an earlier answer that go in front. `context` is the number of tokens that prompt and answer may fill together.
    `drop_oldest` lets a conversation lose its first turns to fit; `shift` lets the middle of a prompt be cut.
    `think_named` is whether the caller chose `think_level`. `parser` names a reader of the answer
    (`models/parsers.py`), empty for the one that the template tells.
    """

    style: PromptStyle
    context: int
    keep: int
    shift: bool
    drop_oldest: bool = False
    template: str | None = None
    messages: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    text: str = ""
    suffix: str = ""
    prefix: tuple[int, ...] = ()
    think: bool = False
    think_level: str = ""
    think_set: bool = False
    think_named: bool = False
    parser: str = ""


@dataclass(frozen=True)
class Load:
    """Gateway to worker, once and first: the directory of the model that it is there for."""

    directory: str


@dataclass(frozen=True)
class Submit:
    """Gateway to worker: generate. `want_context` asks for the token ids of prompt and answer at the end.

    `grammar` is the JSON schema, as text, to which the answer is held; empty for none. `resume` are the token ids of
    the answer that an earlier worker has sent before it died: the answer goes on behind them.
    """

    id: int
    prompt: Prompt
    sampling: Sampling
    want_context: bool
    grammar: str = ""
    resume: tuple[int, ...] = ()


@dataclass(frozen=True)
class Render:
    """Gateway to worker: only render the prompt, and count its tokens."""

    id: int
    prompt: Prompt


@dataclass(frozen=True)
class Embed:
    """Gateway to worker: turn texts into vectors.

    `context` is the most tokens of one text, with those that the tokenizer puts around it; a longer one loses its end
    if `truncate`, else the request fails. `dimensions` 0 means all of them.
    """

    id: int
    inputs: tuple[str, ...]
    context: int
    truncate: bool
    normalize: bool
    dimensions: int


@dataclass(frozen=True)
class Cancel:
    """Gateway to worker: nobody waits for this request any more."""

    id: int


@dataclass(frozen=True)
class Release:
    """Gateway to worker: give back what nobody uses, None of it if that is only to be told. Answered by `Released`."""

    share: Spare | None


@dataclass(frozen=True)
class Released:
    """Worker to gateway: so many bytes were given back, and so many are left that could be."""

    freed: int
    left: int


@dataclass(frozen=True)
class Share:
    """Gateway to worker: so many bytes of the GPU's memory are yours, until the next of these."""

    size: int


@dataclass(frozen=True)
class Ping:
    """Gateway to worker: are you there? Answered by `Pong`, by a thread that never waits for the model."""


@dataclass(frozen=True)
class Pong:
    """Worker to gateway: yes, and this is the number of the step that the model is at; 0 between two."""

    step: int = 0


@dataclass(frozen=True)
class Ready:
    """Worker to gateway: the model is loaded. Sizes are in bytes; `gpu_memory` is 0 on a CPU."""

    device: str
    weight_bytes: int
    gpu_memory: int
    context_length: int


@dataclass(frozen=True)
class Unloadable:
    """Worker to gateway: the model could not be loaded; the worker ends. `kind` is `failed` or `memory`."""

    reason: str
    kind: Failure = "failed"


@dataclass(frozen=True)
class Known:
    """Worker to gateway: reading a prompt begins, and so many of its tokens are known from others.

    `differs_at` is where it parts from the most similar one, which `was` so there and is `now` so; -1 for nowhere.
    """

    id: int
    reused: int
    differs_at: int = -1
    was: str = ""
    now: str = ""


@dataclass(frozen=True)
class Step:
    """Worker to gateway: what one step produced, or several quick ones."""

    deltas: tuple[Piece, ...]


@dataclass(frozen=True)
class Finished:
    """Worker to gateway: the answer is complete. Durations are nanoseconds."""

    id: int
    reason: Literal["stop", "length"]
    prompt_tokens: int
    prompt_ns: int
    eval_tokens: int
    eval_ns: int
    context: tuple[int, ...] | None


@dataclass(frozen=True)
class RenderedPrompt:
    """Worker to gateway: the answer to `Render`. `tokens` is the prompt's length before any shortening."""

    id: int
    text: str
    tokens: int


@dataclass(frozen=True)
class Embedded:
    """Worker to gateway: some vectors of an `Embed` as (index of the text, JSON array); `left` are still to come."""

    id: int
    vectors: tuple[tuple[int, str], ...]
    tokens: int
    left: int


@dataclass(frozen=True)
class Failed:
    """Worker to gateway: this request failed, the others go on."""

    id: int
    kind: Failure
    reason: str


Frame = (
    Submit
    | Render
    | Cancel
    | Ready
    | Unloadable
    | Step
    | Finished
    | RenderedPrompt
    | Failed
    | Embed
    | Embedded
    | Release
    | Released
    | Known
    | Ping
    | Pong
    | Load
    | Share
)
