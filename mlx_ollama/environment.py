"""The environment as other people's libraries read it. Ours is `settings.py`."""

import os
from pathlib import Path

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
"""What keeps the libraries below a worker from asking a hub for anything, or telling it anything."""

_QUICK_TO_SLEEP = {"OPENBLAS_THREAD_TIMEOUT": "4"}
"""For two to the power of so many cycles OpenBLAS's threads wait for work in a loop before they sleep. Its own 26 let
them take a processor from everybody else between two products: on two cores decoding took a tenth longer.
"""


def of_workers() -> dict[str, str]:
    """The environment for processes that run other people's libraries: they find files, and ask nobody."""
    return _QUICK_TO_SLEEP | os.environ | dict.fromkeys(_OFFLINE, "1")


def hub_cache() -> Path:
    """Where the hub's own library keeps what it has fetched, by the variables that it reads."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{caches}/huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()
