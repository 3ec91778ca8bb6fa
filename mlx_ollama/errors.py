"""Everything that can go wrong, as types. No HTTP in here: `policies/errors.py` maps these to status codes.

MlxOllamaError
├── InvalidRequest        the caller's fault
│   ├── NameConflict      two source suffixes in one name
│   ├── Unsupported       this model cannot do that
│   └── PromptTooLong     and it was not to be cut
├── ModelNotFound
│   └── ModelMissing      in the reference's usual words
├── NoEmbeddings          the model generates text, and vectors were asked for
├── LimitReached          a limit of the operator's, who can set it
│   ├── TooLarge          a body over the limit
│   ├── TooSlow           a body that does not arrive in time
│   ├── Overloaded        more at once than is taken
│   ├── RateLimited       more from one address than is taken
│   └── DeadlinePassed    an answer that took too long
├── InvalidOption         an option of the wrong type (the reference calls that its own fault)
├── TemplateFailed        a prompt template that does not parse or run
├── JobFailed             a model could not be created, fetched or sent
├── Unauthorized          no key, or one that is not known
├── UpstreamDown          the server that was to answer instead cannot be reached
├── OutOfMemory           a worker or a request found no memory
│   └── NoRoom            and this one would not have, so it was not begun; it is a LimitReached, too
├── ShuttingDown
└── WorkerError
    ├── LoadFailed        the model could not be loaded
    │   └── LoadPaused    too often of late, so that it is not tried for a while
    ├── WorkerDied        the process went away under a request
    ├── Poisonous         it did so twice under this prompt
    └── GenerationFailed  the engine gave this one request up
"""


class MlxOllamaError(Exception):
    """Base of every error that a caller may see; the message is what they read.

    `retry_after` is the whole seconds after which asking again may help, None where it is of no use or nobody can say.
    """

    retry_after: int | None = None

    @property
    def message(self) -> str:
        return str(self)


class InvalidRequest(MlxOllamaError):
    """The request is malformed, names something invalid or asks for a contradiction."""


class NameConflict(InvalidRequest):
    """A model name with more than one source suffix (wire-spec 7.3)."""

    def __init__(self, name: str) -> None:
        super().__init__(f'use either :local or :cloud, not both: "{name}"')


class Unsupported(InvalidRequest):
    """The model lacks a capability that the request needs."""


class PromptTooLong(InvalidRequest):
    """The prompt does not fit the context and must not be shortened (wire-spec 9.3)."""

    TEXT = (
        "the prompt is longer than the context length currently available to the model; shorten the prompt, "
        "adjust the context length in settings, or use a model with a longer context length"
    )

    def __init__(self) -> None:
        super().__init__(self.TEXT)


class ModelNotFound(MlxOllamaError):
    """No such model in the store. The text differs per endpoint (wire-spec 7.6), so the caller words it."""


class ModelMissing(ModelNotFound):
    """`model 'x' not found`, with the name as the endpoint words it (wire-spec 7.6)."""

    def __init__(self, name: str) -> None:
        super().__init__(f"model '{name}' not found")


class CloudDisabled(MlxOllamaError):
    """The model is one of Ollama's cloud; the text is the reference's when its cloud is off (wire-spec 3.2)."""

    def __init__(self, what: str = "remote model is unavailable") -> None:
        super().__init__(f"ollama cloud is disabled: {what}")


class NoEmbeddings(MlxOllamaError):
    """The model has no embedding capability; the reference's engine answers 501 then (wire-spec 6.8)."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f'"{name}" does not support embeddings: it generates text; /api/tags lists the models with the '
            'capability "embedding"'
        )


class LimitReached(MlxOllamaError):
    """A limit of the operator's stands in the way.

    `setting` is the variable that would have let the request in, empty for none.
    """

    setting = ""


class TooLarge(LimitReached):
    """The request's body is over the limit of bytes."""

    setting = "MLX_API_MAX_BODY"


class TooSlow(LimitReached):
    """The rest of the request's body did not come in time."""

    setting = "MLX_API_BODY_TIMEOUT"


class Overloaded(LimitReached):
    """More requests at once than the server takes."""

    def __init__(self, message: str, *, setting: str, retry_after: int) -> None:
        super().__init__(message)
        self.setting, self.retry_after = setting, retry_after


class RateLimited(LimitReached):
    """More requests from one address than the server takes from one."""

    setting = "MLX_API_RATE_LIMIT"

    def __init__(self, *, retry_after: int) -> None:
        super().__init__("Rate limit exceeded")
        self.retry_after = retry_after


class DeadlinePassed(LimitReached):
    """The answer was not complete in time; asking for the same again would take as long."""

    setting = "MLX_API_TIMEOUT"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the answer took longer than {seconds:g} seconds ({self.setting})")


class InvalidOption(MlxOllamaError):
    """An entry of `options` has the wrong type (wire-spec 3.3: a 500 in the reference, and so here)."""


class TemplateFailed(MlxOllamaError):
    """A template does not parse or cannot be executed; the text is the interpreter's."""


class JobFailed(MlxOllamaError):
    """Creating, fetching or sending a model failed, and the request is not to blame."""


class Unauthorized(MlxOllamaError):
    """The server has keys, and the request shows none of them."""

    def __init__(self) -> None:
        super().__init__("this server needs a key: send one as Authorization: Bearer or x-api-key")


class UpstreamDown(MlxOllamaError):
    """The upstream was to answer in our place, and cannot be reached or gave no answer."""


class OutOfMemory(MlxOllamaError):
    """Memory ran out under a request, or under the worker that it was with."""


class NoRoom(OutOfMemory, LimitReached):
    """A model or an answer is not begun, because the guard finds no room for it; the message has the sum."""

    def __init__(self, message: str, *, setting: str = "", retry_after: int) -> None:
        super().__init__(message)
        self.setting, self.retry_after = setting, retry_after


class ShuttingDown(MlxOllamaError):
    """The server is draining: it finishes what runs and takes nothing new."""

    def __init__(self) -> None:
        super().__init__("server is shutting down")


class WorkerError(MlxOllamaError):
    """A worker process failed."""


class LoadFailed(WorkerError):
    """The worker could not load the model."""


class LoadPaused(LoadFailed):
    """The model has failed to load several times in a row, and is left alone for a while."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Poisonous(WorkerError):
    """The prompt was with workers that died, more than once, and is not tried again."""


class WorkerDied(WorkerError):
    """The worker process ended while the request was with it."""


class GenerationFailed(WorkerError):
    """The engine gave up on this request; the worker lives on."""
