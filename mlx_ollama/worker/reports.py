"""How a short-lived process that makes a model directory speaks: one JSON object a line on standard output.

{"status", "completed", "total"} in bytes, and for a failure {"error"} at last and the exit status 1.
"""

import errno
import json
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from mlx_ollama.worker.gguf_file import ConversionError

Report = Callable[[str, int, int], None]

_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def reporting(work: Callable[[Report], None]) -> int:
    """Do the work and tell of it; the exit status."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        work(_print_progress)
    except ConversionError as error:
        return fail(str(error))
    except BrokenPipeError:  # whoever asked is gone, and with them the line an error could be written to
        return 1
    except OSError as error:
        return fail("no room on disk" if error.errno in _FULL_DISK else str(error))
    return 0


def fail(reason: str) -> int:
    _print({"error": reason})
    return 1


def _stop(_number: int, _frame: FrameType | None) -> None:
    """An exception, so that the partial directory is removed on the way out."""
    raise SystemExit(128 + signal.SIGTERM)


def _print_progress(status: str, completed: int, total: int) -> None:
    _print({"status": status, "completed": completed, "total": total})


def _print(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()
