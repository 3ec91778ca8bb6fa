"""How a short-lived process of ours tells whoever started it what it does; `models/children.py` is the listener."""

import errno
import json
import sys
from collections.abc import Mapping
from typing import Any

_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def tell(line: Mapping[str, Any]) -> None:
    """One JSON object as one line on standard output, at once.

    Raises:
        BrokenPipeError: if nobody listens any more.
    """
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def reason(error: OSError) -> str:
    """What the system would not do, for people."""
    return "no room on disk" if error.errno in _FULL_DISK else str(error)
