"""Making the MLX directories that workers load: of a GGUF file, of uploaded parts, with weights in another form."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mlx_ollama.environment import of_workers
from mlx_ollama.models.children import ChildFailed, lines_of
from mlx_ollama.models.files import locked, partial_directory, publish
from mlx_ollama.models.weights import Weights
from mlx_ollama.types import Progress

QUANTIZED_BITS = {"Q8_0": 8, "Q4_K_S": 4, "Q4_K_M": 4}
"""What `quantize` of a request may name besides `FLOATS`, and the bits of MLX's affine groups that come nearest."""

FLOATS = ("F32", "F16", "BF16")

_LONG_STEPS = ("converting", "quantizing")
"""What is worth a progress bar; the rest is over before anybody looks."""

_TICK_SECONDS = 0.1


class MakingFailed(Exception):
    """The directory cannot be made; the message says why."""


def make(weights: Weights | None) -> Iterator[Progress]:
    """Make a model's directory unless it is there, telling how far it is. Two who want the same one make it once.

    A model that lives elsewhere has no weights, and nothing is made of it.

    Raises:
        MakingFailed: if what it is made of cannot be used here, or there is no room.
    """
    if weights is None or not weights.is_made:
        return
    lock = weights.directory.with_name(f".{weights.directory.name}.lock")
    while not weights.directory.is_dir():
        with locked(lock, wait=False) as is_ours:
            if is_ours:
                if not weights.directory.is_dir():
                    yield from _made(weights)
                return
        # Somebody else makes it. Between two of these it is noticed if nobody waits any more.
        yield Progress(_LONG_STEPS[0])
        time.sleep(_TICK_SECONDS)


def make_for_client(weights: Weights | None, digest: str = "") -> Iterator[Progress]:
    """The same, in the statuses that clients are shown; `digest` is the layer that they belong to, if they do.

    Raises:
        MakingFailed: as `make`.
    """
    for told in make(weights):
        yield replace(told, status=f"{told.status} model", digest=digest)


def _made(weights: Weights) -> Iterator[Progress]:
    if not weights.quantize:
        yield from _plain(weights, weights.directory)
        return
    # The step between is as large as the model, so it lies beside the result and not where small files lie.
    with partial_directory(weights.directory) as folder:
        step = folder / "model"
        yield from _plain(weights, step)
        yield from _run("quantize", step, weights.directory, weights.quantize)


def _plain(weights: Weights, directory: Path) -> Iterator[Progress]:
    if weights.gguf is not None:
        yield from _run("convert", weights.gguf, directory)
    else:
        _link(weights, directory)


def _link(weights: Weights, directory: Path) -> None:
    """A folder in which every part has its name again. Nothing is copied."""
    try:
        with partial_directory(directory) as partial:
            for name, blob in weights.parts.items():
                place = partial / name
                place.parent.mkdir(parents=True, exist_ok=True)
                os.link(blob, place)
            publish(partial, directory)
    except OSError as error:
        raise MakingFailed(f"the parts of the model cannot be put together: {error}") from error


def _run(module: str, source: Path, *arguments: "Path | str") -> Iterator[Progress]:
    """In a process of its own: nobody here ever holds a model's weights."""
    try:
        for told in lines_of(f"mlx_ollama.worker.{module}", source, *arguments, env=of_workers()):
            if told["status"] in _LONG_STEPS:
                yield Progress(told["status"], total=told["total"], completed=told["completed"])
    except ChildFailed as error:
        raise MakingFailed(str(error)) from error
