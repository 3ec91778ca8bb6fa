"""Puts a worker together from a model directory."""

from collections.abc import Callable
from pathlib import Path

from mlx_ollama.protocol import Frame, Ready
from mlx_ollama.worker.batch import Batch, make_batch
from mlx_ollama.worker.device import Device, limit_wired_memory
from mlx_ollama.worker.engine import Engine
from mlx_ollama.worker.load import load
from mlx_ollama.worker.tokenizer import Tokenizer


def build(
    directory: Path, device: Device, send: Callable[[list[Frame]], None], *, prefill_slice: float
) -> tuple[Ready, Engine]:
    """Load the model in `directory` onto the chosen device.

    Raises:
        LoadError: with a reason that a user understands.
    """
    loaded = load(directory, device=device.kind)

    def new_batch() -> Batch:
        batch = make_batch(loaded.model, loaded.eos_token_ids)
        # After each batch, since each wires all that the GPU recommends.
        limit_wired_memory(device, loaded.weight_bytes)
        return batch

    engine = Engine(
        loaded.model,
        Tokenizer(loaded.tokenizer),
        loaded.eos_token_ids,
        send,
        prefill_slice=prefill_slice,
        new_batch=new_batch,
    )
    # Models with more than text keep the numbers of their text part to themselves.
    text_config = loaded.config.get("text_config") or {}
    context = loaded.config.get("max_position_embeddings") or text_config.get("max_position_embeddings") or 0
    return Ready(device.kind, loaded.weight_bytes, device.memory, context), engine
