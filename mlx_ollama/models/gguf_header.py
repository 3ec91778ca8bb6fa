"""The header of a GGUF file, read without numpy: what it says of the model, and whether its tensors are all there.

The format is described in ggml's `docs/gguf.md`; versions 2 and 3, little-endian.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final

MAGIC: Final = b"GGUF"

_VERSIONS = (2, 3)
_MOST_ENTRIES = 1 << 20
_DEEPEST_ARRAY = 4
_STRING, _ARRAY = 8, 9
_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_FLOAT32 = 6
_ALIGNMENT = 32

_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}
"""Name, weights in a block, bytes of a block."""

_FILE_TYPES = (  # noqa: SIM905 - as a list it would fill a page
    "F32 F16 Q4_0 Q4_1 - - - Q8_0 Q5_0 Q5_1 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ2_XXS IQ2_XS "
    "Q2_K_S IQ3_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ3_M IQ2_S IQ2_M IQ4_XS IQ1_M BF16 - - - TQ1_0 TQ2_0 MXFP4_MOE"
).split()
"""By number; a dash where none is in use."""


class NotGguf(Exception):
    """The file is no GGUF file that can be read; the message says why."""


@dataclass(frozen=True)
class TensorEntry:
    """`shape` is in GGUF's order, columns first; `start` and `size` are bytes, from the beginning of the file."""

    name: str
    type: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class GgufHeader:
    """`metadata` has arrays as lists, and float32 numbers with the fewest digits that tell them apart."""

    metadata: Mapping[str, Any]
    tensors: tuple[TensorEntry, ...]

    @classmethod
    def read(cls, path: Path) -> "GgufHeader":
        """Read a file's header.

        Raises:
            NotGguf: if it is none, of another version or byte order, or damaged.
            OSError: if the file cannot be read.
        """
        with path.open("rb") as file:
            return _Reader(file, path).header()

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    @property
    def parameter_count(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def file_type(self) -> str:
        """How most of its weights are quantised: `Q4_K_M`."""
        number = self.metadata.get("general.file_type")
        if not isinstance(number, int) or not 0 <= number < len(_FILE_TYPES) or _FILE_TYPES[number] == "-":
            return "unknown"
        return _FILE_TYPES[number]

    def summary(self, *, arrays: bool = False) -> dict[str, Any]:
        """What `show` tells about the file; arrays are null unless they are asked for (wire-spec 5.5)."""
        return {
            "metadata": {key: _plain(self.metadata[key], arrays=arrays) for key in sorted(self.metadata)},
            "tensors": [{"name": t.name, "type": t.type, "shape": list(t.shape)} for t in self.tensors],
            "parameter_count": self.parameter_count,
            "file_type": self.file_type,
        }


def summary_of(path: Path, *, arrays: bool = False) -> dict[str, Any]:
    """The summary of a file's header, remembered for as long as the file stays as it is.

    Raises:
        NotGguf, OSError: as `GgufHeader.read` does.
    """
    status = path.stat()
    stamp = status.st_mtime_ns, status.st_size, status.st_ino
    # A vocabulary is large: it is read again for the few who ask.
    return GgufHeader.read(path).summary(arrays=True) if arrays else _remembered(path, stamp)


@lru_cache(maxsize=256)
def _remembered(path: Path, stamp: tuple[int, ...]) -> dict[str, Any]:
    return GgufHeader.read(path).summary()


class _Reader:
    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._name = path.name
        self._size = path.stat().st_size

    def header(self) -> GgufHeader:
        if self._file.read(len(MAGIC)) != MAGIC:
            raise NotGguf("supplied file was not in GGUF format")
        version = self._number("<I")
        if version not in _VERSIONS:
            big_endian = bool(version) and version & 0xFFFF == 0
            raise NotGguf(
                "big-endian GGUF files are not supported" if big_endian else f"GGUF version {version} is not supported"
            )
        tensor_count, entry_count = self._count(), self._count()
        metadata = dict(self._entry() for _ in range(entry_count))
        listed = [self._tensor() for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise self._damaged()
        begin = -(-self._file.tell() // alignment) * alignment
        return GgufHeader(metadata, tuple(self._placed(begin, *entry) for entry in listed))

    def _entry(self) -> tuple[str, Any]:
        key = self._string()
        kind = self._number("<I")
        return key, self._value(kind, 0)

    def _value(self, kind: int, depth: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY and depth < _DEEPEST_ARRAY:
            element = self._number("<I")
            length = self._number("<Q")
            return self._array(element, length, depth)
        if kind not in _NUMBERS:
            raise self._damaged()
        number = self._number(_NUMBERS[kind])
        return _shortest(number) if kind == _FLOAT32 else number

    def _array(self, element: int, length: int, depth: int) -> list[Any]:
        if length > self._size:
            raise self._damaged()
        if element not in _NUMBERS:
            return [self._value(element, depth + 1) for _ in range(length)]
        code = _NUMBERS[element][1]
        numbers = struct.unpack(f"<{length}{code}", self._bytes(length * struct.calcsize(_NUMBERS[element])))
        return [_shortest(number) for number in numbers] if element == _FLOAT32 else list(numbers)

    def _tensor(self) -> tuple[str, int, tuple[int, ...], int]:
        name = self._string()
        shape = tuple(self._number("<Q") for _ in range(min(self._number("<I"), 8)))
        return name, self._number("<I"), shape, self._number("<Q")

    def _placed(self, begin: int, name: str, kind: int, shape: tuple[int, ...], offset: int) -> TensorEntry:
        if kind not in _TYPES:
            raise NotGguf(f"unsupported tensor type: {kind}")
        type_name, block, block_bytes = _TYPES[kind]
        size = math.prod(shape) // block * block_bytes
        if begin + offset + size > self._size:
            raise self._damaged()
        return TensorEntry(name, type_name, shape, begin + offset, size)

    def _count(self) -> int:
        count = int(self._number("<Q"))
        if count > _MOST_ENTRIES:
            raise self._damaged()
        return count

    def _string(self) -> str:
        return self._bytes(self._number("<Q")).decode("utf-8", "replace")

    def _number(self, form: str) -> Any:
        (value,) = struct.unpack(form, self._bytes(struct.calcsize(form)))
        return value

    def _bytes(self, length: int) -> bytes:
        # Never more than there is: a length may be anything.
        piece = self._file.read(length) if length <= self._size else b""
        if len(piece) < length:
            raise self._damaged()
        return piece

    def _damaged(self) -> NotGguf:
        return NotGguf(f"{self._name} is truncated or damaged")


def _shortest(number: float) -> float:
    """The float64 that reads like the float32 that this was: 1e-05 and not 9.999999747378752e-06."""
    if not math.isfinite(number):
        return number
    packed = struct.pack("<f", number)
    texts = (f"{number:.{digits}g}" for digits in range(6, 10))
    return float(next((text for text in texts if struct.pack("<f", float(text)) == packed), number))


def _plain(value: Any, *, arrays: bool) -> Any:
    """A value as the reference writes it in JSON: whole floats without a point."""
    if isinstance(value, list):
        return [_plain(element, arrays=True) for element in value] if arrays else None
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() else value
    return value
