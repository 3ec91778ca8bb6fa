"""Writing safetensors files a few rows at a time, so that memory never holds an array, let alone a file."""

import json
import math
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SHARD_BYTES = 4 << 30

_ITEM_BYTES = {"U32": 4, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class ArraySpec:
    """One array to come: its name, its safetensors type and its shape, rows first."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return _ITEM_BYTES[self.dtype] * math.prod(self.shape)


def plan_shards(specs: Iterable[ArraySpec], limit: int = SHARD_BYTES) -> list[list[ArraySpec]]:
    """Cut a sequence of arrays into files of at most `limit` bytes; a larger array gets a file of its own."""
    shards: list[list[ArraySpec]] = []
    room = 0
    for spec in specs:
        if not shards or spec.nbytes > room:
            shards.append([])
            room = limit
        shards[-1].append(spec)
        room -= spec.nbytes
    return shards


def write_shards(directory: Path, shards: list[list[ArraySpec]], pieces: Iterable[tuple[str, Array]]) -> None:
    """Write model*.safetensors, and the index when there are several.

    A piece is an array's name and its next rows; pieces of several arrays may alternate. BF16 arrays come as the upper
    halves of their float32 bits, in uint16.

    Raises:
        ValueError: if the pieces are not what was planned.
    """
    index: dict[str, str] = {}
    with ExitStack() as stack:
        places: dict[str, _Place] = {}
        for number, shard in enumerate(shards, 1):
            name = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
            file = stack.enter_context((directory / name).open("wb"))
            places |= _lay_out(file, shard)
            index |= {spec.name: name for spec in shard}
        for name, rows in pieces:
            places[name].append(rows)
        for place in places.values():
            place.close()
    if len(shards) > 1:
        total = sum(spec.nbytes for shard in shards for spec in shard)
        write_json(directory / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


class _Place:
    """Where one array lies in its file, and how much of it has come."""

    def __init__(self, file: IO[bytes], spec: ArraySpec, start: int) -> None:
        self.file = file
        self._spec = spec
        self._next = start
        self._end = start + spec.nbytes

    def append(self, rows: Array) -> None:
        if rows.shape[1:] != self._spec.shape[1:] or self._next + rows.nbytes > self._end:
            raise ValueError(f"{self._spec} was planned, {rows.dtype} {rows.shape} came")
        self.file.seek(self._next)
        self.file.write(np.ascontiguousarray(rows).data)
        self._next += rows.nbytes

    def close(self) -> None:
        if self._next != self._end:
            raise ValueError(f"{self._spec} was planned, {self._end - self._next} bytes are missing")


def _lay_out(file: IO[bytes], shard: list[ArraySpec]) -> dict[str, _Place]:
    """Write the header, and say where each array goes."""
    places = {}
    start = file.write(_header(shard))
    for spec in shard:
        places[spec.name] = _Place(file, spec, start)
        start += spec.nbytes
    return places


def _header(shard: list[ArraySpec]) -> bytes:
    """The length of the JSON in 8 bytes, then the JSON, padded so that the data begin at a multiple of 8."""
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    offset = 0
    for spec in shard:
        end = offset + spec.nbytes
        header[spec.name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
