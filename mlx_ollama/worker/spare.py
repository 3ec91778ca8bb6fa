"""What a worker can give back when memory is short."""

import mlx.core as mx

from mlx_ollama.protocol import Release, Released


def release(frame: Release) -> Released:
    """Give back what no answer uses.

    Buffers are MLX's pool of freed arrays. Every cached prompt belongs to an answer that is under way, so there are no
    idle prefixes to give back.
    """
    before = mx.get_cache_memory()
    if frame.share == "buffers":
        mx.clear_cache()
    return Released(max(0, before - mx.get_cache_memory()))
