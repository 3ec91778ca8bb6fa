"""What a worker can give back when memory is short, or when it is weighed."""

import ctypes
import gc
from contextlib import suppress
from typing import Protocol

import mlx.core as mx

from mlx_ollama.protocol import Release, Released


class Remembered(Protocol):
    """Prompts that are remembered: their bytes, and a way to forget them."""

    size: int

    def release(self) -> int: ...


def release(frame: Release, prompts: Remembered | None = None) -> Released:
    """Give back what no answer uses; the bytes that came of it, and those that could be given back yet.

    Buffers are MLX's pool of freed arrays, and what the C library keeps of memory that was freed. Prefixes are
    `prompts`, which are dropped: what they held is in the pool then, and goes with it.
    """
    before = _held()
    if frame.share == "prefixes" and prompts is not None:
        prompts.release()
    if frame.share is not None:
        gc.collect()
        mx.clear_cache()
        _trim()
    left = mx.get_cache_memory() + (0 if prompts is None else prompts.size)
    return Released(max(0, before - _held()), left)


def _held() -> int:
    return int(mx.get_active_memory() + mx.get_cache_memory())


def _trim() -> None:
    """Have the C library return freed pages, which on a CPU is where MLX's arrays were.

    glibc keeps them otherwise; others have no such call and need none.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
