"""What one process holds of this machine's memory, whether others can see it or not.

Resident bytes would be too many, with files that are mapped, and too few, without what was swapped out or compressed.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

try:
    import psutil
except ImportError:  # needed where the kernel is asked in no way of ours
    psutil = None

Footprint = Callable[[int], int | None]
"""From a process' id to bytes that are its own; None for one that is gone."""

_KIBIBYTE = 1024
_RUSAGE_BYTES = 96
_FOOTPRINT_AT = 16 + 7 * 8
"""`struct rusage_info_v0` of macOS: a UUID, then numbers of 64 bits; ri_phys_footprint is the eighth of ten."""


def system_footprint() -> Footprint | None:
    """How footprints are read on this platform; None where they cannot be."""
    if sys.platform == "darwin":
        return _of_darwin
    if Path("/proc/self/status").is_file():
        return _of_linux
    return None if psutil is None else _of_psutil


def from_status(status: str) -> int:
    """Bytes that are nobody else's, by Linux' account of a process: what no file stands behind, swapped out or not."""
    parts = (line.split() for line in status.splitlines())
    found = {name: int(rest[0]) for name, *rest in parts if name in ("RssAnon:", "VmSwap:")}
    return sum(found.values()) * _KIBIBYTE


def from_rusage(usage: bytes) -> int:
    """The physical footprint of macOS, which counts a GPU's buffers and what is compressed, and jetsam goes by."""
    return int(struct.unpack_from("=Q", usage, _FOOTPRINT_AT)[0])


def _of_linux(pid: int) -> int | None:
    with suppress(OSError):
        return from_status(Path(f"/proc/{pid}/status").read_text())
    return None


def _of_darwin(pid: int) -> int | None:
    usage = ctypes.create_string_buffer(_RUSAGE_BYTES)
    with suppress(OSError, AttributeError):
        if ctypes.CDLL(None).proc_pid_rusage(ctypes.c_int(pid), ctypes.c_int(0), usage) == os.EX_OK:
            return from_rusage(usage.raw)
    return None


def _of_psutil(pid: int) -> int | None:
    with suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return None
