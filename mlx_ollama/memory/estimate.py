"""What a model will need of memory, estimated before it is loaded, from headers and its configuration alone."""

import sys
from dataclasses import dataclass
from typing import Literal

from mlx_ollama.models.describe import directory_of
from mlx_ollama.models.store import StoredModel
from mlx_ollama.protocol import Prompt

WIDE_BYTES, HALF_BYTES = 4, 2
USUAL_CONTEXT = 4096
"""Tokens for which there shall be room where neither the request nor the operator says how many."""

ANSWER_TOKENS = 1024
"""What an answer without a limit is expected to take. Its context would be the most, which few answers fill."""

CHARACTERS_PER_TOKEN = 3
"""Fewer than English has per token: too much is counted rather than too little."""


@dataclass(frozen=True)
class Demand:
    """What one request is going to hold in a model's cache, in tokens.

    `context` is the most that it may fill, 0 where nobody says. `prompt` and `answer` are what it probably will.
    """

    context: int = 0
    prompt: int = 0
    answer: int = 0

    @classmethod
    def of(cls, prompt: Prompt | None, *, limit: int, context: int) -> "Demand":
        """What a prompt asks for, None for none, with an answer of at most `limit` tokens, 0 for no limit.

        Only a worker can count tokens: characters are counted here.
        """
        if prompt is None:
            return cls(context)
        characters = len(prompt.text) + len(prompt.suffix) + sum(len(message.content) for message in prompt.messages)
        tokens = len(prompt.prefix) + characters // CHARACTERS_PER_TOKEN
        return cls(context, min(tokens, context or tokens), limit or ANSWER_TOKENS)

    @property
    def expected(self) -> int:
        tokens = self.prompt + self.answer
        return min(tokens, self.context or tokens)


@dataclass(frozen=True)
class Need:
    """Bytes that loading a model takes: its weights, and the keys and values of one conversation."""

    weights: int
    context: int

    @property
    def total(self) -> int:
        return self.weights + self.context


class Estimator:
    """Knows how wide numbers are on the device on which workers compute.

    `device` is the setting: where that is `auto`, a Mac is taken for one with a GPU and any other machine for one
    without, until the first worker tells.
    """

    def __init__(self, device: str) -> None:
        guess: Literal["cpu", "gpu"] = "gpu" if device == "gpu" or _is_mac(device) else "cpu"
        self._on_cpu = guess == "cpu"

    def learn(self, device: str) -> None:
        """What a worker says that it computes on."""
        self._on_cpu = device == "cpu"

    def need(self, model: StoredModel, demand: Demand | None) -> Need:
        """What loading a model takes; nothing for one that cannot be looked at, which its worker will tell.

        `demand` None is for work that caches nothing, such as embedding.
        """
        directory = directory_of(model)
        if directory is None:
            return Need(0, 0)
        # A CPU's worker widens every weight to float32, quantised ones included (worker/load.py).
        weights = directory.parameter_count * WIDE_BYTES if self._on_cpu else directory.weight_bytes
        if demand is None:
            return Need(weights, 0)
        tokens = demand.context or USUAL_CONTEXT
        trained = directory.context_length or tokens
        return Need(weights, min(tokens, trained) * self.token_bytes(model))

    def token_bytes(self, model: StoredModel) -> int:
        """Bytes of keys and values that one token leaves in the cache; 0 for a model that does not say or has none."""
        directory = directory_of(model)
        if directory is None or directory.embedder is not None:
            return 0
        return directory.cached_numbers_per_token * (WIDE_BYTES if self._on_cpu else HALF_BYTES)


def _is_mac(device: str) -> bool:
    return device == "auto" and sys.platform == "darwin"
