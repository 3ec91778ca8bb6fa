"""Which files of a repository make a model: MLX weights with what goes with them, or one GGUF file."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

LATEST = "latest"
"""The tag of names that have none."""

_WITH_WEIGHTS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
_STEPS = ("*_Pooling/config.json", "*_Dense/config.json", "*_Dense/model.safetensors")
"""What follows the model in one that embeds."""

_WEIGHTS = "model*.safetensors"
_EVERYDAY = ("Q4_K_M", "Q4_K_S", "Q4_0", "Q5_K_M", "Q6_K", "Q8_0", "F16", "BF16")
"""Quantisations in the order in which one is taken where none is asked for."""

_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


class NothingUsable(Exception):
    """The repository has nothing that could be used here; the message says what is missing."""


@dataclass(frozen=True)
class File:
    """One file of a repository; `size` in bytes.

    Large files have the `sha256` of their content, the others are known by git's `blob_id`.
    """

    name: str
    size: int
    sha256: str = ""
    blob_id: str = ""


def has_weights(files: Iterable[File]) -> bool:
    """Whether there are weights that MLX reads."""
    return any(_in_root(file, _WEIGHTS) for file in files)


def has_gguf(files: Iterable[File]) -> bool:
    return bool(_ggufs(files))


def mlx_files(files: Sequence[File]) -> Sequence[File]:
    """Weights, configuration and tokenizer; nothing that is a program, and no weights in other forms.

    Raises:
        NothingUsable: if there are none.
    """
    if not has_weights(files) or not any(file.name == "config.json" for file in files):
        raise NothingUsable("it has neither MLX weights (config.json and model*.safetensors) nor a GGUF file")
    return [file for file in files if any(_in_root(file, pattern) for pattern in (*_WITH_WEIGHTS, *_STEPS, _WEIGHTS))]


def gguf_file(files: Iterable[File], tag: str) -> File:
    """The GGUF file that a tag names: by its quantisation, or by the file's whole name.

    Raises:
        NothingUsable: if there is none, or it is one of several parts.
    """
    ggufs = _ggufs(files)
    wanted = _EVERYDAY if tag == LATEST else (tag,)
    named = (file for quantization in wanted for file in ggufs if _is_of(file.name, quantization))
    found = next(named, ggufs[0] if tag == LATEST else None)
    if found is None:
        raise NothingUsable(f"it has no GGUF file {tag}, but {', '.join(file.name for file in ggufs)}")
    if _SPLIT.search(found.name):
        raise NothingUsable(f"{found.name} is one of several parts, and models of several GGUF files are not supported")
    return found


def _ggufs(files: Iterable[File]) -> Sequence[File]:
    """Those of models; what projects images is none."""
    ggufs = [file for file in files if file.name.lower().endswith(".gguf") and "mmproj" not in file.name.lower()]
    return sorted(ggufs, key=lambda file: file.name)


def _is_of(name: str, quantization: str) -> bool:
    stem = _SPLIT.sub(".gguf", name).rpartition("/")[2].lower().removesuffix(".gguf")
    wanted = quantization.lower().removesuffix(".gguf")
    return stem == wanted or (stem.endswith(wanted) and stem[-len(wanted) - 1] in "-._")


def _in_root(file: File, pattern: str) -> bool:
    return file.name.count("/") == pattern.count("/") and fnmatch(file.name, pattern)
