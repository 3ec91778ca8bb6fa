"""The vocabulary: what is asked for (calls), what comes back (events), and what both are made of.

Dialects turn bytes into calls and events into bytes; everything between speaks these words and no JSON.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal, NamedTuple

DoneReason = Literal["stop", "length", "load", "unload"]


@dataclass(frozen=True)
class ToolCall:
    """A function that an assistant message calls; `arguments` keep the order in which they came."""

    name: str
    arguments: Mapping[str, Any]
    id: str = ""
    index: int = 0


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. `images` and `audio` are decoded bytes."""

    role: str
    content: str
    thinking: str = ""
    images: tuple[bytes, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""
    audio: tuple[bytes, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Call:
    """What every request about a model carries.

    `model` is the name as the caller wrote it; `ignored` names the fields of the request that nobody here heeds.
    """

    model: str
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Generation(Call):
    """What chat and completion have in common.

    `keep_alive` is in seconds, None where the caller said nothing; `format` is the decoded JSON of the field, None
    where unset; `think` None means that the model decides. `include_usage` is whether a stream is to tell its counts,
    in dialects that leave the choice to the caller (wire-spec 8.2).
    """

    stream: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    keep_alive: float | None = None
    format: Any = None
    think: bool | str | None = None
    think_if_able: bool = False
    """Whether a model that cannot think is asked all the same, whatever `think` says."""
    truncate: bool = True
    shift: bool = True
    logprobs: bool = False
    top_logprobs: int = 0
    render_only: bool = False
    include_usage: bool = False

    @property
    def unloads(self) -> bool:
        """Whether all that is asked is that the model leaves memory (wire-spec 3.2, 4.2)."""
        return False


@dataclass(frozen=True, kw_only=True)
class Chat(Generation):
    """Answer a conversation (wire-spec 4.1)."""

    messages: Sequence[Message] = ()
    tools: Sequence[Mapping[str, Any]] = ()

    @property
    def unloads(self) -> bool:
        return not self.messages and self.keep_alive == 0


@dataclass(frozen=True, kw_only=True)
class Completion(Generation):
    """Continue a prompt (wire-spec 3.1). `context` holds the token ids of an earlier answer, None where absent."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: tuple[int, ...] | None = None
    raw: bool = False
    images: tuple[bytes, ...] = ()

    @property
    def unloads(self) -> bool:
        return not self.prompt and self.keep_alive == 0


@dataclass(frozen=True, kw_only=True)
class Embed(Call):
    """Turn texts into vectors (wire-spec 6.8).

    `truncate` lets a text lose its end to fit the context; `dimensions` 0 means all; `normalize` makes each vector as
    long as 1. `inputs` None stands for what is no text at all, `base64` for vectors written as bytes (wire-spec 8.4).
    `legacy` is `/api/embeddings` (wire-spec 6.9), which names and reports things in its own way.
    """

    inputs: tuple[str, ...] | None = ()
    truncate: bool = True
    dimensions: int = 0
    normalize: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    keep_alive: float | None = None
    legacy: bool = False
    base64: bool = False


@dataclass(frozen=True, kw_only=True)
class Show(Call):
    """Describe a model (wire-spec 5.5). `system` and `options` overlay what is shown."""

    verbose: bool = False
    system: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    user_agent: str = ""


@dataclass(frozen=True, kw_only=True)
class Create(Call):
    """Make a model (wire-spec 6.4).

    It is made of the model `source`, or of `files`: digests of blobs by file name, None where none were named; or it
    refers to the MLX model `directory` of this machine, which no request can name. What is empty, or None, is taken
    over from `source`. `license` and `info` are as they came: they are checked when it is
    their turn. `quantize` names a form that the weights are brought into.
    """

    stream: bool = True
    source: str = ""
    files: Mapping[str, str] | None = None
    directory: str = ""
    adapters: Mapping[str, str] = field(default_factory=dict)
    draft_files: Mapping[str, str] = field(default_factory=dict)
    draft_quantize: str = ""
    template: str = ""
    system: str = ""
    license: Any = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    messages: Sequence[Message] = ()
    quantize: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    remote_host: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Copy(Call):
    """Give `model` a second name (wire-spec 6.5)."""

    destination: str


@dataclass(frozen=True, kw_only=True)
class Delete(Call):
    """Take a model away (wire-spec 6.6)."""


@dataclass(frozen=True, kw_only=True)
class Pull(Call):
    """Fetch a model from a registry (wire-spec 6.2)."""

    stream: bool = True
    insecure: bool = False


@dataclass(frozen=True, kw_only=True)
class Push(Call):
    """Bring a model to a registry (wire-spec 6.3)."""

    stream: bool = True
    insecure: bool = False


@dataclass(frozen=True)
class Progress:
    """How far a job is (wire-spec 6.1): `completed` of `total` bytes of `digest`, where that means something."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


@dataclass(frozen=True)
class Usage:
    """Counts of tokens and measured durations in nanoseconds (wire-spec 2.2).

    `prompt_tokens` counts every token of the prompt, `eval_tokens` every token sampled, the end token included.
    """

    prompt_tokens: int
    prompt_ns: int
    eval_tokens: int
    eval_ns: int
    load_ns: int = 0
    total_ns: int = 0


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a token was, in natural logarithms, before penalties, grammar and temperature.

    `bytes` are the token's own, which may be a part of a character; `top` are the likeliest tokens in its place.
    """

    token: str
    logprob: float
    bytes: tuple[int, ...]
    top: "tuple[TokenLogprob, ...]" = ()


class Delta(NamedTuple):
    """A piece of an answer, never cut inside a character, with the ids of the tokens that it consists of.

    `position` is the index of the first of these tokens in the answer; `text` is what the user reads, `thinking` what
    the model told itself, `tool_calls` what it wants done. `logprobs` has an entry for each token where asked for.

    Each token makes one here and one in the gateway, and a tuple takes a quarter of a frozen dataclass's time.
    """

    text: str
    tokens: tuple[int, ...] = ()
    position: int = 0
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()

    @classmethod
    def joined(cls, pieces: "Sequence[Delta]") -> "Delta":
        """Pieces that follow each other as one; an empty one for none."""
        return cls(
            "".join(piece.text for piece in pieces),
            tuple(chain.from_iterable(piece.tokens for piece in pieces)),
            pieces[0].position if pieces else 0,
            "".join(piece.thinking for piece in pieces),
            tuple(chain.from_iterable(piece.tool_calls for piece in pieces)),
            tuple(chain.from_iterable(piece.logprobs for piece in pieces)),
        )


@dataclass(frozen=True)
class Done:
    """The end of an answer. `usage` is there where something was generated, `context` for completions unless raw."""

    reason: DoneReason
    usage: Usage | None = None
    context: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Rendered:
    """The prompt that would have been read, not shortened, and its length in tokens; answers `render_only`."""

    prompt: str
    tokens: int = 0


Event = Delta | Done | Rendered


@dataclass(frozen=True)
class Leased:
    """The model is loaded, and work on the answer begins: a word to the server, no part of the answer."""


@dataclass(frozen=True)
class Recalled(Leased):
    """Reading the prompt begins, and `reused` of its tokens are known from others: one more word to the server.

    `differs_at` is the place in which it parts from the most similar one, whose token `was` there (-1 for none).
    """

    reused: int
    differs_at: int = -1
    was: str = ""
    now: str = ""


@dataclass(frozen=True)
class Vectors:
    """Some vectors of an `Embed`, each with the index of its text; `left` texts are still to come.

    They are JSON arrays of float32 numbers, in Go's way and with the fewest digits that tell them apart. `tokens`
    counts those of the texts in here, the tokenizer's own around them included.
    """

    vectors: tuple[tuple[int, str], ...]
    tokens: int
    left: int


@dataclass(frozen=True)
class Embeddings:
    """The vectors of an `Embed`, one per text in its order; `usage` is there where something was computed."""

    vectors: Sequence[Sequence[float]]
    usage: Usage | None = None


@dataclass(frozen=True)
class Details:
    """The `details` object of tags, ps and show."""

    format: str
    family: str
    families: tuple[str, ...]
    parameter_size: str
    quantization_level: str
    parent_model: str = ""
    context_length: int = 0
    embedding_length: int = 0


@dataclass(frozen=True)
class ListedModel:
    """A model of the store as tags lists it. `modified` is in nanoseconds since the epoch, `size` in bytes."""

    name: str
    modified: int
    size: int
    digest: str
    details: Details
    capabilities: tuple[str, ...]
    remote_model: str = ""
    remote_host: str = ""


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory as ps lists it. `expires` is in nanoseconds since the epoch, sizes in bytes."""

    name: str
    size: int
    size_vram: int
    digest: str
    details: Details
    expires: int
    context_length: int


@dataclass(frozen=True)
class ShownModel:
    """Everything that show tells."""

    license: str
    modelfile: str
    parameters: str
    template: str
    system: str
    details: Details
    messages: tuple[Message, ...]
    model_info: Mapping[str, Any]
    tensors: Sequence[Mapping[str, Any]]
    capabilities: tuple[str, ...]
    modified: int
    requires: str = ""
