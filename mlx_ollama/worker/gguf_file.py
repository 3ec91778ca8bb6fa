"""A GGUF file, opened and checked: metadata as plain values, tensors that are mapped when they are asked for."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from mlx_ollama.models.gguf_header import GgufHeader, NotGguf, TensorEntry

Array = npt.NDArray[Any]

_NUMBERS = {"F32": "<f4", "F16": "<f2"}


class ConversionError(Exception):
    """The file cannot be converted. The text is for the person who asked for it."""


@dataclass(frozen=True)
class GgufTensor:
    """One tensor as the file holds it.

    `shape` is in GGUF's order, columns first. `open` gives the data, (rows, …) with the columns as numbers for F32 and
    F16 and as bytes of whole blocks for every other type: a new map of the file each time, so that the pages that were
    read are given back with it, and the memory of a whole conversion is that of one tensor.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    nbytes: int
    open: Callable[[], Array]

    @property
    def kind(self) -> Any:
        """The member of ggml's enumeration, which the `gguf` package asks for."""
        return GGMLQuantizationType[self.type]

    @property
    def rows(self) -> int:
        return math.prod(self.shape[1:])


@dataclass(frozen=True)
class GgufFile:
    path: Path
    size: int
    header: GgufHeader
    tensors: tuple[GgufTensor, ...]

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self.header.metadata

    @property
    def architecture(self) -> str:
        return str(self.require("general.architecture"))

    def tensor(self, name: str) -> GgufTensor | None:
        return next((tensor for tensor in self.tensors if tensor.name == name), None)

    def require(self, key: str) -> Any:
        """The value of a metadata key. Raises ConversionError when the file lacks it."""
        try:
            return self.metadata[key]
        except KeyError:
            raise ConversionError(f"the file's metadata lacks {key}") from None

    def own(self, key: str, default: Any = None) -> Any:
        """What the file says of its own architecture: "context_length" is "llama.context_length" in a llama."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def require_own(self, key: str) -> Any:
        """As `own`. Raises ConversionError when the file lacks it."""
        return self.require(f"{self.architecture}.{key}")

    def count(self, key: str, default: int | None = None) -> int:
        """A positive number that holds for the whole model. Raises ConversionError when it is something else."""
        value = self.require_own(key) if default is None else self.own(key, default)
        if not isinstance(value, int) or value < 1:
            name = f"{self.architecture}.{key}"
            raise ConversionError(f"unsupported {name}: one positive number for the whole model is needed")
        return value

    def summary(self, sha256: str) -> dict[str, Any]:
        """What `show` tells about the file, for a reader without numpy: the contents of gguf.json."""
        return {**self.header.summary(), "size": self.size, "sha256": sha256}


def read_gguf(path: Path) -> GgufFile:
    """Open a GGUF file, versions 2 and 3, little-endian, in one part.

    Raises ConversionError when it is something else, or damaged, and OSError when it cannot be read at all.
    """
    try:
        header = GgufHeader.read(path)
    except NotGguf as error:
        raise ConversionError(str(error)) from error
    parts = header.metadata.get("split.count")
    if isinstance(parts, int) and parts > 1:
        raise ConversionError(f"{path.name} is one part of a split GGUF file: join the parts first")
    return GgufFile(path, path.stat().st_size, header, tuple(_tensor(path, entry) for entry in header.tensors))


def _tensor(path: Path, entry: TensorEntry) -> GgufTensor:
    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[entry.type]]
    columns, *others = entry.shape or (0,)
    if not entry.size or columns % block:
        raise ConversionError(f"{path.name} is truncated or damaged")
    row = columns if entry.type in _NUMBERS else columns // block * block_bytes
    dtype = _NUMBERS.get(entry.type, "u1")
    mapped = functools.partial(np.memmap, path, dtype, "r", entry.start, (*reversed(others), row))
    return GgufTensor(entry.name, entry.type, entry.shape, entry.size, mapped)
