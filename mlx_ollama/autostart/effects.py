"""What installing a service does to the machine: a file written, a command of the platform run."""

import subprocess
from pathlib import Path


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    draft.touch(0o600)
    draft.write_bytes(content)
    draft.replace(path)


def run(*command: str, quiet: bool = False) -> int:
    """Run a command in the user's terminal; its exit status. `quiet` is for those whose failure is no news.

    Raises:
        OSError: if there is no such command.
    """
    output = subprocess.DEVNULL if quiet else None
    return subprocess.run(command, check=False, stdout=output, stderr=output).returncode
