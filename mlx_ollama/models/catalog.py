"""Ollama's names of models that the hub has as MLX reads them (`catalog.toml`)."""

import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from mlx_ollama.models.names import DEFAULT_TAG, ModelName

_FILE = Path(__file__).with_name("catalog.toml")
_MOST_NEAR = 3


def repository_of(name: ModelName) -> str:
    """The repository on the hub that is this model; empty if none is known."""
    return _repositories().get(f"{name.model}:{name.tag}".lower(), "")


def near(name: ModelName) -> Sequence[str]:
    """Names that are known and look like this one, the nearest first."""
    known = [text.removesuffix(f":{DEFAULT_TAG}") for text in _repositories()]
    wanted = f"{name.model}:{name.tag}".lower().removesuffix(f":{DEFAULT_TAG}")
    return get_close_matches(wanted, known, _MOST_NEAR)


@cache
def _repositories() -> Mapping[str, str]:
    rows = tomllib.loads(_FILE.read_text())["model"]
    return {name: row["repository"] for row in rows for name in row["names"]}
