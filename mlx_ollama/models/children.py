"""Short-lived processes of ours that do what is too heavy for this one, and tell how far they are in lines of JSON."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mlx_ollama.jobs import interruptible

if TYPE_CHECKING:
    from pathlib import Path


class ChildFailed(Exception):
    """The process could not do it; the message says why, `told` is its last line."""

    def __init__(self, message: str, told: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.told = told


def lines_of(module: str, *arguments: "Path | str", env: Mapping[str, str] | None = None) -> Iterator[dict[str, Any]]:
    """Run `python -m module`, and give what it tells; to close this is to end the process.

    `env` is its environment, ours if None.

    Raises:
        ChildFailed: for a line with an `error`, or an end without one that is no success.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    pipe = subprocess.PIPE
    failure: dict[str, Any] = {}
    with subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            with interruptible(process.terminate):
                for line in process.stdout or ():
                    told = json.loads(line)
                    failure = told if "error" in told else failure
                    if not failure:
                        yield told
        # Whatever keeps us from reading on, also that nobody wants more of it, ends the process.
        except BaseException:
            process.terminate()
            raise
        complaint = process.stderr.read() if process.stderr else ""
    if failure or process.returncode:
        last = complaint.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        raise ChildFailed(failure.get("error") or last[0], failure)
