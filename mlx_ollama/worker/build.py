"""Puts a worker together from a model directory."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_ollama.models.directory import ModelDirectory, NotAModel
from mlx_ollama.models.embedder import Embedder
from mlx_ollama.protocol import Frame, Ready
from mlx_ollama.worker.device import Device, limit_memory
from mlx_ollama.worker.importing import import_mlx_lm

if TYPE_CHECKING:
    from mlx_ollama.worker.embed import EmbedEngine
    from mlx_ollama.worker.engine import Engine

Send = Callable[[list[Frame]], None]


@dataclass(frozen=True)
class PromptCache:
    """How much of what was read is remembered: bytes, and the name of the chooser of what goes first.

    That may lie in the folder `home`.
    """

    budget: int
    chooser: str
    home: Path | None = None


def warm() -> None:
    """Import what models that generate text need, which takes a second."""
    import_mlx_lm()
    import_module("mlx_ollama.worker.engine")
    import_module("mlx_ollama.worker.load")


def build(
    directory: Path, device: Device, send: Send, *, prefill_slice: float, prompt_cache: PromptCache
) -> "tuple[Ready, Engine] | tuple[Ready, EmbedEngine]":
    """Load the model in `directory` onto the chosen device, and what it is there for: generating or embedding.

    Raises:
        LoadError, LoadFailed, NotAChooser: with a reason that a user understands.
    """
    embedder = _embedder(directory)
    if embedder is not None:
        return _build_embedder(directory, embedder, device, send, slice_seconds=prefill_slice)
    return _build_generator(directory, device, send, prefill_slice, prompt_cache)


def _build_generator(
    directory: Path, device: Device, send: Send, prefill_slice: float, prompt_cache: PromptCache
) -> "tuple[Ready, Engine]":
    # Each kind of worker imports only what it needs: mlx-lm and, behind it, transformers take a second.
    warm()
    from mlx_ollama.worker.batch import make_batch  # noqa: PLC0415 - see above
    from mlx_ollama.worker.engine import Engine  # noqa: PLC0415 - see above
    from mlx_ollama.worker.load import load  # noqa: PLC0415 - see above
    from mlx_ollama.worker.prefix_choice import chooser  # noqa: PLC0415 - see above
    from mlx_ollama.worker.prefixes import Prefixes  # noqa: PLC0415 - see above
    from mlx_ollama.worker.tokenizer import Tokenizer  # noqa: PLC0415 - see above

    budget = prompt_cache.budget
    prefixes = Prefixes(budget, chooser(prompt_cache.chooser, prompt_cache.home) if budget else None)
    loaded = load(directory, device=device.kind)

    limit = partial(limit_memory, device, loaded.weight_bytes)
    # All there is, until the gateway says how many share it.
    limit(device.memory)
    engine = Engine(
        loaded.model,
        Tokenizer(loaded.tokenizer),
        loaded.eos_token_ids,
        send,
        prefill_slice=prefill_slice,
        new_batch=partial(make_batch, loaded.model, loaded.eos_token_ids),
        prefixes=prefixes,
        # A GPU's sums depend on the company of a token anyway.
        is_exact=device.kind == "cpu",
        limit_memory=limit,
    )
    # Models with more than text keep the numbers of their text part to themselves.
    text_config = loaded.config.get("text_config") or {}
    context = loaded.config.get("max_position_embeddings") or text_config.get("max_position_embeddings") or 0
    return Ready(device.kind, loaded.weight_bytes, device.memory, context), engine


def _build_embedder(
    directory: Path, embedder: Embedder, device: Device, send: Send, *, slice_seconds: float
) -> "tuple[Ready, EmbedEngine]":
    from mlx_ollama.worker.embed import EmbedEngine  # noqa: PLC0415 - see above
    from mlx_ollama.worker.embedder import load_embedder  # noqa: PLC0415 - see above

    loaded = load_embedder(directory, embedder, device)
    limit = partial(limit_memory, device, loaded.weight_bytes)
    limit(device.memory)
    ready = Ready(device.kind, loaded.weight_bytes, device.memory, loaded.longest)
    return ready, EmbedEngine(loaded, send, device=device.kind, slice_seconds=slice_seconds, limit_memory=limit)


def _embedder(directory: Path) -> Embedder | None:
    try:
        return ModelDirectory.read(directory).embedder
    except NotAModel:
        # `load` says why, and in more detail.
        return None
