"""What a worker can give back when memory is short."""

from collections.abc import Callable

import mlx.core as mx

from mlx_ollama.protocol import Release, Released


def release(frame: Release, forget: Callable[[], object] = lambda: None) -> Released:
    """Give back what no answer uses; the bytes that came of it.

    Buffers are MLX's pool of freed arrays. Prefixes are prompts that are remembered, which `forget` drops: what they
    held is in the pool then, and goes with it.
    """
    before = _held()
    if frame.share == "prefixes":
        forget()
    mx.clear_cache()
    return Released(max(0, before - _held()))


def _held() -> int:
    return int(mx.get_active_memory() + mx.get_cache_memory())
