"""Memory limits of Linux containers: a process in a control group has what the group may use, not what the machine has.

Files and their meaning: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of the kernel.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Names:
    """What one version of control groups calls its files; `cache` are entries of memory.stat."""

    limit: str
    usage: str
    kills: str
    cache: tuple[str, ...]


V1 = Names(
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "memory.oom_control",
    ("total_active_file", "total_inactive_file"),
)
V2 = Names("memory.max", "memory.current", "memory.events", ("active_file", "inactive_file"))


@dataclass(frozen=True)
class Group:
    """One control group with a limit. All in bytes but `kills`, its processes that were killed for want of memory.

    `used` leaves out what the kernel keeps of files only because there is room.
    """

    limit: int
    used: int
    kills: int


def groups(root: Path = ROOT, membership: Path = MEMBERSHIP) -> list[Group]:
    """Every limited group that this process is in, innermost first; none where there are no control groups."""
    return [group for folder, names in _folders(root, membership) if (group := _group(folder, names))]


def _folders(root: Path, membership: Path) -> Iterator[tuple[Path, Names]]:
    """The folders of the groups from our own up to the root's.

    In a container the path may be the host's name for our group while the mounted tree begins with the group itself:
    folders that are not there are passed over, and the root comes last in any case.
    """
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, colon, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if not colon or (controllers and "memory" not in controllers.split(",")):
                continue
            names, mount = (V1, root / "memory") if controllers else (V2, root)
            inner = PurePosixPath(path.lstrip("/"))
            for part in (inner, *inner.parents) if str(inner) != "." else (inner,):
                if ".." not in part.parts and (mount / part).is_dir():
                    yield mount / part, names


def _group(folder: Path, names: Names) -> Group | None:
    limit, usage = _number(folder / names.limit), _number(folder / names.usage)
    if limit is None or usage is None:
        return None
    entries = _table(folder / "memory.stat")
    cache = sum(entries.get(name, 0) for name in names.cache)
    return Group(limit, max(0, usage - cache), _table(folder / names.kills).get("oom_kill", 0))


def _number(path: Path) -> int | None:
    """The number in a file; None for `max`, and where there is no such file."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _table(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    try:
        pairs = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}  # noqa: PLR2004 - a pair
