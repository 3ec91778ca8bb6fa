"""Language models as embedders: mlx-lm's model without its head, which leaves one vector per token."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.utils import _get_classes

from mlx_ollama.errors import LoadFailed
from mlx_ollama.worker.load import Device, Loaded, load

_BODY = "model."
_HEAD = "lm_head"


class Decoder:
    """The body of a language model; a token sees only those before it."""

    def __init__(self, loaded: Loaded) -> None:
        self._body = loaded.model.model

    def __call__(self, tokens: mx.array, present: mx.array | None) -> mx.array:
        """Vectors (texts, tokens, width) of `tokens`, filled up at their ends, where no token before them looks."""
        hidden: mx.array = self._body(tokens)
        return hidden


def load_decoder(directory: Path, config: Mapping[str, Any], *, device: Device) -> tuple[Decoder, Loaded]:
    """The body of the language model in a directory, float32 on a CPU.

    Raises:
        LoadError, LoadFailed: with a reason that a user understands.
    """
    # mlx-lm's models read forwards only, whatever a configuration says, and would give vectors that are quietly wrong.
    if config.get("use_bidirectional_attention") or config.get("is_causal") is False:
        raise LoadFailed(f"{config.get('model_type')} embedders that read in both directions are not supported")
    loaded = load(directory, device=device, classes=_headless)
    return Decoder(loaded), loaded


def _headless(config: dict[str, Any]) -> tuple[Any, Any]:
    """mlx-lm's classes for a configuration, the model without its head.

    Embedders are often saved without it, and then without the name of the body in front of each weight's.
    """
    model_class, arguments = _get_classes(config)

    class Headless(model_class):  # type: ignore[misc, valid-type]  # a class that is known at run time only
        def __init__(self, args: Any) -> None:
            super().__init__(args)
            if not hasattr(self, "model"):
                raise LoadFailed(f"{config.get('model_type')} models are not supported as embedders")
            self.pop(_HEAD, None)

        def sanitize(self, weights: dict[str, Any]) -> dict[str, Any]:
            if not any(name.startswith(_BODY) for name in weights):
                weights = {f"{_BODY}{name}": array for name, array in weights.items()}
            if hasattr(model_class, "sanitize"):
                weights = super().sanitize(weights)
            return {name: array for name, array in weights.items() if not name.startswith(f"{_HEAD}.")}

    return Headless, arguments
