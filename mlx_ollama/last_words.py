"""How a worker's failures and its end are told to those who wait for it."""

import signal

from mlx_ollama.errors import GenerationFailed, InvalidRequest, OutOfMemory, PromptTooLong, TemplateFailed
from mlx_ollama.protocol import Failed

NEXT = "the next request starts a new one"


def error_of(frame: Failed) -> Exception:
    """What a worker says of one request, as the error that its caller gets."""
    match frame.kind:
        case "too_long":
            return PromptTooLong()
        case "template":
            return TemplateFailed(frame.reason)
        case "invalid":
            return InvalidRequest(frame.reason)
        case "memory":
            return OutOfMemory(f"memory ran out under this request: {frame.reason}")
        case _:
            return GenerationFailed(frame.reason)


def obituary(status: int | None) -> str:
    """How a worker ended, for the caller; the log has the rest."""
    if status is None:
        return "the model worker is gone"
    if status < 0:
        name = next((known.name for known in signal.Signals if known == -status), f"signal {-status}")
        hint = ", perhaps for want of memory" if name in ("SIGKILL", "SIGABRT") else ""
        return f"the model worker has unexpectedly stopped ({name}{hint}); {NEXT}"
    return f"the model worker has unexpectedly stopped (exit status {status}); {NEXT}"
