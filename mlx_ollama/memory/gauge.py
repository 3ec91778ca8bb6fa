"""How full the memory of this machine is."""

import ctypes
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from mlx_ollama.memory.cgroup import Group, groups

try:
    import psutil
except ImportError:  # without it the guard is off, and says so
    psutil = None

PERCENT = 100
GIGABYTE = 1 << 30
"""What is sold and shown as a GB of memory, on Macs as elsewhere."""


@dataclass(frozen=True)
class Reading:
    """Bytes in use and bytes there are. What can be had back at any time, such as a cache of files, is not in use.

    `source` says whose bytes: `system`, or `container` where a control group allows less. Where both bound us, this is
    the fuller one, and `beside` has the others: a small container may be emptier than its machine and still be short.
    """

    used: int
    total: int
    source: str = "system"
    beside: "tuple[Reading, ...]" = ()

    @property
    def every(self) -> "tuple[Reading, ...]":
        """All bounds: what is to fit must fit into each."""
        return (self, *self.beside)

    @property
    def percent(self) -> float:
        return PERCENT * self.used / self.total

    @property
    def available(self) -> int:
        return max(0, self.total - self.used)


class MemoryGauge(Protocol):
    """Where readings come from."""

    def read(self) -> Reading:
        """How full memory is now."""
        ...

    def kills(self) -> int:
        """How many processes the system has ended so far for want of memory; 0 where it does not count them."""
        ...


class SystemGauge:
    """The memory of this machine, and no more of it than a container may use.

    Everything but `read_system` and `kills_of_system`, the calls into the system, is plain arithmetic.
    """

    def __init__(
        self,
        read_system: Callable[[], Reading],
        kills_of_system: Callable[[], int],
        limited_to: Callable[[], Iterable[Group]] = list,
    ) -> None:
        self._read_system = read_system
        self._kills_of_system = kills_of_system
        self._limited_to = limited_to

    def read(self) -> Reading:
        return tightest(self._read_system(), self._limited_to())

    def kills(self) -> int:
        return self._kills_of_system() + sum(group.kills for group in self._limited_to())


def system_gauge() -> MemoryGauge | None:
    """The gauge of this platform; None without psutil."""
    if psutil is None:
        return None
    if sys.platform == "darwin":
        return SystemGauge(_read_darwin, lambda: 0)
    return SystemGauge(_read_psutil, _kills_of_linux, groups)


def tightest(system: Reading, limits: Iterable[Group]) -> Reading:
    """The fullest of the machine and the groups that limit us, with the others beside it.

    A group that may use all there is, limits nothing.
    """
    inner = [Reading(group.used, group.limit, "container") for group in limits if 0 < group.limit < system.total]
    fullest, *others = sorted([system, *inner], key=lambda reading: reading.percent, reverse=True)
    return replace(fullest, beside=tuple(others))


def from_pressure(total: int, free_percent: int) -> Reading:
    """A reading from macOS' own measure of pressure, which counts neither file caches nor what can be compressed.

    `free_percent` is kern.memorystatus_level, the "system-wide memory free percentage" of `memory_pressure`.
    """
    free = min(PERCENT, max(0, free_percent))
    return Reading(total * (PERCENT - free) // PERCENT, total)


def _read_psutil() -> Reading:
    memory = psutil.virtual_memory()
    return Reading(memory.total - memory.available, memory.total)


def _read_darwin() -> Reading:
    level = _sysctl("kern.memorystatus_level")
    return _read_psutil() if level is None else from_pressure(psutil.virtual_memory().total, level)


def _sysctl(name: str) -> int | None:
    """A 32-bit number of the macOS kernel."""
    value, size = ctypes.c_int32(), ctypes.c_size_t(4)
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        if not library.sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)):
            return value.value
    return None


def _kills_of_linux(counters: Path = Path("/proc/vmstat")) -> int:
    with suppress(OSError):
        for line in counters.read_text().splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
    return 0
