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
    """Where the hub's own library keeps what it has fetched, by the variables that it reads.

    As there, a variable that is set to nothing is set.
    """
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = _expanded(os.environ.get("HF_HOME", str(Path(caches, "huggingface"))))
    former = os.environ.get("HUGGINGFACE_HUB_CACHE", str(Path(home, "hub")))
    return Path(_expanded(os.environ.get("HF_HUB_CACHE", former))).absolute()


def _expanded(path: str) -> str:
    # `Path.expanduser` raises for a user who is not there, where the library takes the name as it is.
    return os.path.expandvars(os.path.expanduser(path))  # noqa: PTH111 - see above
