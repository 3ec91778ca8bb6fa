"""Short-lived processes of ours that do what is too heavy for this one, and tell how far they are in lines of JSON."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from mlx_ollama.jobs import interruptible

if TYPE_CHECKING:
    from pathlib import Path


_LAST_BYTES = 1 << 12
"""Of what a child complains of: its last line is among them."""


class ChildFailed(Exception):
    """The process could not do it; the message says why, `told` is its last line."""

    def __init__(self, message: str, told: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.told = told


def lines_of(module: str, *arguments: "Path | str", env: Mapping[str, str] | None = None) -> Iterator[dict[str, Any]]:
    """Run `python -m module`, and give what it tells; to close this is to end the process.

    What libraries print between is passed over. `env` is its environment, ours if None.

    Raises:
        ChildFailed: for a line with an `error`, or an end without one that is no success.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    failure: dict[str, Any] = {}
    # Complaints go to a file: nobody reads them before the end, and who fills a pipe waits for that.
    with tempfile.TemporaryFile() as complaints:
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=complaints) as process:
            try:
                with interruptible(process.terminate):
                    for line in process.stdout or ():
                        told = _object(line)
                        failure = told if "error" in told else failure
                        if told and not failure:
                            yield told
            # Whatever keeps us from reading on, also that nobody wants more of it, ends the process.
            except BaseException:
                process.terminate()
                raise
        if failure or process.returncode:
            last = _last_line(complaints) or f"exit status {process.returncode}"
            raise ChildFailed(failure.get("error") or last, failure)


def _object(line: bytes) -> dict[str, Any]:
    """An empty one for a line that is none."""
    with suppress(ValueError, RecursionError):
        told = json.loads(line)
        if isinstance(told, dict):
            return told
    return {}


def _last_line(complaints: IO[bytes]) -> str:
    size = complaints.seek(0, os.SEEK_END)
    complaints.seek(max(0, size - _LAST_BYTES))
    *_, last = ["", *complaints.read().decode(errors="replace").strip().splitlines()]
    return last
