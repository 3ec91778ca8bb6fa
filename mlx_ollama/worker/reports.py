"""How a short-lived process that makes a model directory speaks: one JSON object a line on standard output.

{"status", "completed", "total"} in bytes, and for a failure {"error"} at last and the exit status 1.
"""

import signal
from collections.abc import Callable
from types import FrameType

from mlx_ollama.telling import reason, tell
from mlx_ollama.worker.contained import Stopped
from mlx_ollama.worker.gguf_file import ConversionError

Report = Callable[[str, int, int], None]


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
        return fail(reason(error))
    return 0


def fail(why: str) -> int:
    tell({"error": why})
    return 1


def _stop(_number: int, _frame: FrameType | None) -> None:
    """An exception, so that the partial directory is removed on the way out, which no second signal cuts short."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped(128 + signal.SIGTERM)


def _print_progress(status: str, completed: int, total: int) -> None:
    tell({"status": status, "completed": completed, "total": total})
