"""From token ids to finished vectors: the model, the pooling, what follows it, and the length of 1."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_ollama.errors import InvalidRequest, LoadFailed
from mlx_ollama.models.embedder import Embedder
from mlx_ollama.worker.device import Device
from mlx_ollama.worker.encoder_weights import load_encoder, read_config, weight_bytes
from mlx_ollama.worker.pooling import pool
from mlx_ollama.worker.projection import Projection, load_projection
from mlx_ollama.worker.texts import TextTokenizer

logger = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]
Model = Callable[[mx.array, mx.array | None], mx.array]
"""Token ids (texts, tokens) and which of them are no filling, to vectors (texts, tokens, width)."""

SMALLEST_NORM = 1e-12
NOT_FINITE = "embedding contains NaN or Inf values"


@dataclass(frozen=True)
class LoadedEmbedder:
    """A model that embeds, ready on the thread that loaded it. `longest` is in tokens, 0 where no file says."""

    model: Model
    tokenizer: TextTokenizer
    poolings: tuple[str, ...]
    projections: tuple[Projection, ...]
    longest: int
    weight_bytes: int

    def vectors(self, texts: Sequence[Sequence[int]]) -> Vectors:
        """One vector per text (texts, width), not normalised; each text is at least one token id."""
        lengths = [len(text) for text in texts]
        width = max(lengths)
        filled = mx.array([[*text, *[0] * (width - len(text))] for text in texts])
        alike = min(lengths) == width
        present = None if alike else mx.arange(width)[None] < mx.array(lengths)[:, None]
        pooled = pool(self.model(filled, present), lengths, self.poolings)
        for projection in self.projections:
            pooled = projection(pooled)
        return np.array(pooled)


def load_embedder(directory: Path, embedder: Embedder, device: Device) -> LoadedEmbedder:
    """Load the embedder in a directory; on a CPU in float32.

    Raises:
        LoadFailed, LoadError: with a reason that a user understands.
    """
    if embedder.unknown:
        raise LoadFailed(f"the step {embedder.unknown[0]} in {directory}/modules.json is not supported")
    if embedder.guessed:
        logger.warning("%s does not say how to pool; taking %s", directory, embedder.poolings[0])
    config = read_config(directory)
    model, trained, size = _model(directory, embedder, config, device)
    return LoadedEmbedder(
        model,
        TextTokenizer.read(directory, lower_case=embedder.lower_case),
        embedder.poolings,
        tuple(load_projection(folder) for folder in embedder.projections),
        min((limit for limit in (trained, embedder.longest) if limit), default=0),
        size,
    )


def finished(vectors: Vectors, *, normalize: bool, dimensions: int) -> Vectors:
    """What is sent of raw vectors (texts, width): as long as 1 each, and only the first `dimensions` of them, if any.

    Raises:
        InvalidRequest: for numbers that are none (wire-spec 6.8).
    """
    if not np.isfinite(vectors).all():
        raise InvalidRequest(NOT_FINITE)
    if 0 < dimensions < vectors.shape[-1]:
        vectors = vectors[:, :dimensions]
    if not normalize:
        return vectors
    norms = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=-1, keepdims=True))
    unit: Vectors = (vectors / np.maximum(norms, SMALLEST_NORM)).astype(np.float32)
    return unit


def _model(directory: Path, embedder: Embedder, config: dict[str, Any], device: Device) -> tuple[Model, int, int]:
    """The model, the most tokens that it was trained for, and its bytes."""
    if embedder.encoder:
        encoder, shape = load_encoder(directory, config)
        return encoder, shape.longest, weight_bytes(encoder)
    # Only language models need mlx-lm and, behind it, transformers.
    from mlx_ollama.worker.decoder import load_decoder  # noqa: PLC0415 - see above

    decoder, loaded = load_decoder(directory, config, device=device.kind)
    return decoder, int(config.get("max_position_embeddings") or 0), loaded.weight_bytes
