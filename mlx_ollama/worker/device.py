"""Which device a worker computes on, and how much of a GPU's memory it takes."""

import logging
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx

logger = logging.getLogger(__name__)

HEADROOM = 1.25
"""Wired memory of a worker beyond its weights, as a factor: keys and values of a few conversations."""

POOL_PART = 4
"""Of what its weights leave of a worker's share, this part may be freed arrays that MLX keeps for the next ones."""

LEAST_POOL_BYTES = 64 << 20
"""However short memory is: without a pool every array of every step is asked of the system."""


@dataclass(frozen=True)
class Device:
    """`memory` is what the GPU recommends to use, in bytes; 0 on a CPU."""

    kind: Literal["cpu", "gpu"]
    memory: int


@dataclass(frozen=True)
class Limits:
    """What a worker keeps to, in bytes: wired memory, all memory, and MLX's pool of freed arrays."""

    wired: int
    memory: int
    pool: int


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


def limits_of(recommended: int, weight_bytes: int, share: int) -> Limits:
    """The limits of one worker of several that the gateway gives `share` bytes; never more than is recommended.

    Wired are its weights and some headroom, not all of its share: what is wired nobody else can have.
    """
    share = min(share, recommended)
    pool = max(LEAST_POOL_BYTES, (share - weight_bytes) // POOL_PART)
    return Limits(wired=min(share, int(weight_bytes * HEADROOM)), memory=share, pool=min(share, pool))


def limit_memory(device: Device, weight_bytes: int, share: int) -> None:
    """Take only this worker's share: other models have workers of their own.

    MLX's own limits are for one process that has the GPU to itself: half more than is recommended, pool included.
    """
    logger.debug("this worker's share is %d MiB", share >> 20)
    if device.kind == "gpu" and mx.metal.is_available():
        apply(limits_of(device.memory, weight_bytes, share))


def apply(limits: Limits) -> None:
    """Set MLX's limits of this process."""
    mx.set_memory_limit(limits.memory)
    mx.set_cache_limit(limits.pool)
    mx.set_wired_limit(limits.wired)
