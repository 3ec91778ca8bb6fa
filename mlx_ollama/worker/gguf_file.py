"""A GGUF file, opened and checked: metadata as plain values, tensors as views of the file."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, LlamaFileType

Array = npt.NDArray[Any]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)


class ConversionError(Exception):
    """The file cannot be converted. The text is for the person who asked for it."""


@dataclass(frozen=True)
class GgufTensor:
    """One tensor as the file holds it.

    `shape` is in GGUF's order, columns first. `data` is (rows, …) with the columns as numbers for F32 and F16 and as
    bytes of whole blocks for every other type; it is a view of the mapped file, so reading it reads the disk.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    data: Array

    @property
    def kind(self) -> Any:
        """The member of ggml's enumeration, which the `gguf` package asks for."""
        return GGMLQuantizationType[self.type]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufFile:
    path: Path
    size: int
    metadata: Mapping[str, Any]
    tensors: tuple[GgufTensor, ...]

    def tensor(self, name: str) -> GgufTensor | None:
        return next((tensor for tensor in self.tensors if tensor.name == name), None)

    def require(self, key: str) -> Any:
        """The value of a metadata key. Raises ConversionError when the file lacks it."""
        try:
            return self.metadata[key]
        except KeyError:
            raise ConversionError(f"the file's metadata lacks {key}") from None

    def summary(self, sha256: str) -> dict[str, Any]:
        """What `show` tells about the file, for a reader without numpy: the contents of gguf.json.

        Arrays of any length are null, as the reference server shows them unless it is asked for more.
        """
        return {
            "metadata": {key: _plain(self.metadata[key]) for key in sorted(self.metadata)},
            "tensors": [{"name": t.name, "type": t.type, "shape": list(t.shape)} for t in self.tensors],
            "parameter_count": sum(tensor.size for tensor in self.tensors),
            "file_type": _file_type(self.metadata.get("general.file_type")),
            "size": self.size,
            "sha256": sha256,
        }


def read_gguf(path: Path) -> GgufFile:
    """Open a GGUF file, versions 2 and 3, little-endian, in one part.

    Raises ConversionError when it is something else, or damaged, and OSError when it cannot be read at all.
    """
    _check_header(path)
    try:
        reader = GGUFReader(path)
        # the reader adds three fields of its own, which are no metadata
        metadata = {key: _value(field) for key, field in reader.fields.items() if not key.startswith("GGUF.")}
        tensors = tuple(_tensor(tensor) for tensor in reader.tensors)
    except (ValueError, IndexError, KeyError, OverflowError, TypeError) as error:
        raise ConversionError(_damage(path, error)) from error
    if metadata.get("split.count", 1) > 1:
        raise ConversionError(f"{path.name} is one part of a split GGUF file: join the parts first")
    return GgufFile(path, path.stat().st_size, metadata, tensors)


def _check_header(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(8)
    if head[:4] != _MAGIC:
        raise ConversionError(f"{path.name} is not a GGUF file")
    version = int.from_bytes(head[4:], "little")
    if version and version & 0xFFFF == 0:
        raise ConversionError(f"{path.name} is a big-endian GGUF file, which is not supported")
    if len(head) == 8 and version not in _VERSIONS:  # noqa: PLR2004
        raise ConversionError(f"{path.name} has GGUF version {version}, which is not supported")


def _damage(path: Path, error: Exception) -> str:
    """The reader's exceptions name its own variables; only an unknown tensor type tells the user something."""
    unknown = re.search(r"(\d+)\)? is not a valid GGMLQuantizationType", str(error))
    if unknown:
        return f"unsupported tensor type: {unknown[1]}"
    return f"{path.name} is truncated or damaged"


def _value(field: Any) -> Any:
    contents = field.contents()
    if field.types[0] == GGUFValueType.FLOAT32 and math.isfinite(contents):
        return float(str(np.float32(contents)))  # 1e-05, not the 9.999999747378752e-06 it widens to
    return contents


def _tensor(tensor: Any) -> GgufTensor:
    return GgufTensor(tensor.name, tensor.tensor_type.name, tuple(int(n) for n in tensor.shape), tensor.data)


def _plain(value: Any) -> Any:
    """A metadata value as the reference server writes it in JSON: whole floats without a point, arrays as null."""
    if isinstance(value, list):
        return None
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() else value
    return value


def _file_type(value: Any) -> str:
    try:
        return str(LlamaFileType(value).name).removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return "unknown"
