"""How a failure is named in the frame that tells of it."""

from mlx_ollama.errors import InvalidRequest, MlxOllamaError, PromptTooLong, TemplateFailed
from mlx_ollama.memory.shortage import is_shortage
from mlx_ollama.protocol import Failure


def failure_of(error: BaseException) -> Failure:
    """The kind of an error; `memory` if it, or what caused it, is an allocation that did not succeed."""
    if is_shortage(error):
        return "memory"
    match error:
        case PromptTooLong():
            return "too_long"
        case InvalidRequest():
            return "invalid"
        case TemplateFailed():
            return "template"
    return "failed"


def reason_of(error: BaseException) -> str:
    """What its caller reads: where nobody has worded an error for people, its type tells as much as its text."""
    return str(error) if isinstance(error, MlxOllamaError) else f"{type(error).__name__}: {error}"
