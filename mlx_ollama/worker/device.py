"""Which device a worker computes on, and its share of a GPU's wired memory."""

from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx

HEADROOM = 1.25
"""Wired memory of a worker beyond its weights, as a factor: keys and values of a few conversations."""


@dataclass(frozen=True)
class Device:
    """`memory` is what the GPU recommends to use, in bytes; 0 on a CPU."""

    kind: Literal["cpu", "gpu"]
    memory: int


def select(wanted: str) -> Device:
    """Make `auto`, `cpu` or `gpu` the default device; call it before anything of mlx-lm is imported.

    Raises:
        RuntimeError: if a GPU is asked for and there is none.
    """
    has_gpu = mx.metal.is_available() or mx.cuda.is_available()
    if wanted == "gpu" and not has_gpu:
        raise RuntimeError("MLX_API_DEVICE is gpu, but MLX finds none here")
    if wanted == "cpu" or not has_gpu:
        mx.set_default_device(mx.cpu)
        return Device("cpu", 0)
    mx.set_default_device(mx.gpu)
    return Device("gpu", recommended_memory(mx.device_info()))


def recommended_memory(info: dict[str, Any]) -> int:
    """The working set that the GPU's driver recommends, or its memory where it recommends nothing."""
    return int(info.get("max_recommended_working_set_size") or info.get("memory_size") or 0)


def wired_share(recommended: int, weight_bytes: int) -> int:
    """How much memory one worker of several may wire: its weights and some headroom, never all there is."""
    return min(recommended, int(weight_bytes * HEADROOM))


def limit_wired_memory(device: Device, weight_bytes: int) -> None:
    """Take only this worker's share: other models have workers of their own."""
    if device.kind == "gpu" and mx.metal.is_available():
        mx.set_wired_limit(wired_share(device.memory, weight_bytes))
