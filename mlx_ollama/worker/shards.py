"""Writing safetensors files one array at a time, so that memory holds one tensor and not one file."""

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

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


def write_shards(directory: Path, shards: list[list[ArraySpec]], arrays: Iterator[npt.NDArray[Any]]) -> None:
    """Write model*.safetensors, and the index when there are several. `arrays` come in the order of the plan.

    BF16 arrays come as the upper halves of their float32 bits, in uint16.
    """
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_shard(directory / name, shard, arrays)
        index |= {spec.name: name for spec in shard}
    if len(shards) > 1:
        total = sum(spec.nbytes for shard in shards for spec in shard)
        write_json(directory / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        _to_disk(file)


def _write_shard(path: Path, shard: list[ArraySpec], arrays: Iterator[npt.NDArray[Any]]) -> None:
    with path.open("wb") as file:
        file.write(_header(shard))
        for spec in shard:
            array = next(arrays)
            if array.shape != spec.shape or array.nbytes != spec.nbytes:
                raise ValueError(f"{spec.name}: {spec} was planned, {array.dtype} {array.shape} came")
            file.write(np.ascontiguousarray(array).data)
        _to_disk(file)


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


def _to_disk(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
