"""Greedy sampling as the gateway asks a worker for it, with Ollama's defaults elsewhere."""

from typing import Any

GREEDY: dict[str, Any] = {
    "seed": 0,
    "temperature": 0.0,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repeat_last_n": 64,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "stop": (),
    "limit": 24,
}
"""The fields of `protocol.Sampling` that a request must have."""
