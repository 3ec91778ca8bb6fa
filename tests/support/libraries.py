"""Which libraries a running process has mapped into its memory."""

import subprocess
import sysconfig
from pathlib import Path

import psutil

_PACKAGES = Path(sysconfig.get_path("platlib")).resolve()


def libraries(process: psutil.Process) -> str:
    """A line for each, those of Python packages with their packages' names.

    Nothing of where they lie: that may have the name of a library in it.
    """
    paths = (Path(path).resolve() for path in _mapped(process))
    return "\n".join(
        str(path.relative_to(_PACKAGES)) if path.is_relative_to(_PACKAGES) else path.name for path in paths
    )


def _mapped(process: psutil.Process) -> list[str]:
    if hasattr(process, "memory_maps"):
        return [region.path for region in process.memory_maps()]
    # On macOS psutil cannot tell. Each line begins with the letter of its field.
    listing = ["lsof", "-a", "-p", str(process.pid), "-d", "txt", "-F", "n"]
    lines = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.splitlines()
    return [line[1:] for line in lines if line.startswith("n")]
