"""The facts that health and metrics are told from, gathered at one moment; nothing here decides anything."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mlx_ollama import gotime
from mlx_ollama.memory.gauge import Reading
from mlx_ollama.memory.guard import MemoryGuard, Thresholds
from mlx_ollama.policies.drain import Phase
from mlx_ollama.pool import Pool
from mlx_ollama.resident import Resident, Tally


class Capacity(Protocol):
    """How many inference requests run, wait, and may run at once."""

    @property
    def active(self) -> int: ...

    @property
    def waiting(self) -> int: ...

    @property
    def most(self) -> int: ...


class Window(Protocol):
    """How many requests an address may send in how many seconds; 0 is no limit."""

    @property
    def most(self) -> int: ...

    @property
    def window(self) -> float: ...


@dataclass(frozen=True)
class CachedModel:
    """A model in memory, or on its way there. `last_used` is in nanoseconds since the epoch, `size` in bytes."""

    name: str
    use_count: int
    last_used: int
    load_seconds: float
    active_requests: int
    is_loading: bool
    is_restart: bool
    size: int

    @classmethod
    def of(cls, resident: Resident) -> "CachedModel":
        return cls(
            name=resident.name,
            use_count=resident.use_count,
            last_used=resident.last_used,
            load_seconds=resident.load_seconds,
            active_requests=resident.user_count,
            is_loading=resident.ready is None,
            is_restart=resident.is_restart,
            size=resident.ready.weight_bytes if resident.ready else 0,
        )

    @property
    def last_used_text(self) -> str:
        """ISO 8601 in UTC."""
        return gotime.utc(self.last_used)


@dataclass(frozen=True)
class Vitals:
    """One moment of the server. `memory` is None where nobody measures it; `requests` are by a model's display name."""

    phase: Phase
    active: int
    waiting: int
    most: int
    requests: Mapping[str, int]
    memory: Reading | None
    thresholds: Thresholds
    cached: Sequence[CachedModel]
    rate_limit: int
    rate_window: float

    @property
    def restarting(self) -> Sequence[str]:
        """Models whose workers have died and are being started anew."""
        return [model.name for model in self.cached if model.is_loading and model.is_restart]


class Monitor:
    """Gathers vitals from those who have them. `phase` is asked each time."""

    def __init__(
        self, pool: Pool, guard: MemoryGuard, capacity: Capacity, window: Window, phase: Callable[[], Phase]
    ) -> None:
        self._pool = pool
        self._guard = guard
        self._capacity = capacity
        self._window = window
        self._phase = phase

    @property
    def tally(self) -> Tally:
        """What the pool has done so far."""
        return self._pool.tally

    def vitals(self) -> Vitals:
        """What is so at this moment."""
        residents = [*self._pool.residents(), *self._pool.loading()]
        requests: dict[str, int] = {}
        for resident in residents:
            for name, count in resident.users.items():
                requests[name] = requests.get(name, 0) + count
        return Vitals(
            phase=self._phase(),
            active=self._capacity.active,
            waiting=self._capacity.waiting,
            most=self._capacity.most,
            requests=requests,
            memory=self._guard.read(),
            thresholds=self._guard.thresholds,
            cached=[CachedModel.of(resident) for resident in residents],
            rate_limit=self._window.most,
            rate_window=self._window.window,
        )
