"""Linear layers after the pooling (sentence-transformers' `Dense`)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_ollama.errors import LoadFailed
from mlx_ollama.worker.encoder_weights import read_config

Projection = Callable[[mx.array], mx.array]

_ACTIVATIONS: Mapping[str, Projection] = {"Identity": lambda vectors: vectors, "Tanh": mx.tanh}


def load_projection(folder: Path) -> Projection:
    """The layer in a folder, in float32: from (texts, width in) to (texts, width out).

    Raises:
        LoadFailed: if it cannot be read, or is of a kind that we do not have.
    """
    config = read_config(folder)
    name = str(config.get("activation_function", "Identity")).rpartition(".")[2]
    activation = _ACTIVATIONS.get(name)
    if activation is None:
        raise LoadFailed(f"the activation {name} in {folder} is not supported")
    try:
        stored: Any = mx.load(str(folder / "model.safetensors"))
        weight = stored["linear.weight"].astype(mx.float32)
        bias = stored["linear.bias"].astype(mx.float32) if "linear.bias" in stored else mx.zeros(weight.shape[0])
        mx.eval(weight, bias)
    except (RuntimeError, KeyError) as error:
        raise LoadFailed(f"the weights in {folder} cannot be read: {error}") from error
    return lambda vectors: activation(vectors @ weight.T + bias)
