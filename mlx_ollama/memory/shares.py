"""How the memory of a GPU is divided among the workers that compute on it: each is told its share, in bytes."""

from collections.abc import Sequence

from mlx_ollama.resident import Resident


def divided(total: int, weights: Sequence[int]) -> list[int]:
    """Shares that together are `total`: each model's weights, and an equal part of what all of them leave.

    Where the weights alone are more than there is, everyone gives way in proportion.
    """
    whole = sum(weights)
    if whole > total:
        return [total * weight // whole for weight in weights]
    rest = (total - whole) // max(1, len(weights))
    return [weight + rest for weight in weights]


def shares_of(residents: Sequence[Resident]) -> list[tuple[Resident, int]]:
    """The shares of those that are loaded onto a GPU. Of those that load what was promised to them is left alone."""
    loaded = [resident for resident in residents if resident.ready is not None and resident.ready.gpu_memory]
    if not loaded:
        return []
    total = min(resident.ready.gpu_memory for resident in loaded if resident.ready)
    coming = [resident.promised for resident in residents if resident.ready is None]
    weights = [resident.ready.weight_bytes for resident in loaded if resident.ready]
    return list(zip(loaded, divided(total, [*weights, *coming]), strict=False))
