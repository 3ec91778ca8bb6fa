"""A machine whose memory is the sum of what is in it: the gauge and the crew of a guard, for tests of its decisions."""

from collections.abc import Sequence

from mlx_ollama.memory.gauge import Reading
from mlx_ollama.protocol import Spare

GB = 1 << 30


class World:
    """`base` bytes are other people's. Models are idle unless `busy`; `spare` is what workers can give back.

    `warm` are those of the worker without a model, None if none is wanted.
    """

    def __init__(self, base: float, *, total: int = 100 * GB, **models: float) -> None:
        self.base, self.total = int(base * GB), total
        self.models = {name: int(size * GB) for name, size in models.items()}
        self.busy: set[str] = set()
        self.spare: dict[Spare, int] = {"buffers": 0, "prefixes": 0}
        self.warm: int | None = None
        self.pledged = 0
        self.oom_kills = 0
        self.deeds: list[str] = []

    def read(self) -> Reading:
        return Reading(self.base + sum(self.models.values()) + sum(self.spare.values()) + (self.warm or 0), self.total)

    def kills(self) -> int:
        return self.oom_kills

    async def give_back(self, share: Spare) -> int:
        self.deeds.append(share)
        freed, self.spare[share] = self.spare[share], 0
        return freed

    async def give_up_spare(self) -> bool:
        if is_there := bool(self.warm):
            self.deeds.append("spare worker")
            self.warm = 0
        return is_there

    def renew_spare(self) -> None:
        if self.warm == 0:
            self.deeds.append("spare worker again")
            self.warm = 1 * GB

    def dispensable(self) -> Sequence[str]:
        return self.idle()

    def idle(self) -> Sequence[str]:
        return [name for name in self.models if name not in self.busy]

    async def unload_idle(self, key: str) -> str:
        self.deeds.append(f"unload {key}")
        del self.models[key]
        return key

    def promised(self) -> int:
        return self.pledged

    def holders(self) -> Sequence[str]:
        return [f"{name} ({int(name in self.busy)} in use)" for name in self.models]
