"""How failures are named for the gateway."""

import pytest

from mlx_ollama.errors import GenerationFailed, InvalidRequest, PromptTooLong, TemplateFailed
from mlx_ollama.worker.failure import failure_of
from mlx_ollama.worker.load import LoadError


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PromptTooLong(), "too_long"),
        (InvalidRequest("no"), "invalid"),
        (TemplateFailed("no"), "template"),
        (GenerationFailed("no"), "failed"),
        (RuntimeError("[safetensors] Invalid json header length"), "failed"),
        (RuntimeError("[malloc] Unable to allocate 4398046511104 bytes."), "memory"),
        (RuntimeError("CUDA error: out of memory"), "memory"),
        (_caused(LoadError("the weights cannot be read"), RuntimeError("[metal::malloc] Attempting …")), "memory"),
        (_caused(LoadError("the weights cannot be read"), RuntimeError("[read] Unable to read 5 bytes")), "failed"),
        (_caused(TemplateFailed("chat template"), MemoryError()), "memory"),
    ],
)
def test_kinds(error: Exception, kind: str) -> None:
    assert failure_of(error) == kind
