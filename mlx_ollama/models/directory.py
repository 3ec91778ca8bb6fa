"""What an MLX model directory holds, read from its headers alone: no weights are loaded, mlx is not needed."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import Any

import orjson

from mlx_ollama.models.embedder import Embedder
from mlx_ollama.models.gguf_header import NotGguf, summary_of
from mlx_ollama.types import Details

GGUF_HEADER_FILE = "gguf.json"
_LONGEST_HEADER = 1 << 28
_PACKED_BITS = 32
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class NotAModel(Exception):
    """The directory is no MLX model; the message says what is missing."""


@dataclass(frozen=True)
class Tensor:
    """One entry of a safetensors header, by name; `shape` as stored."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelDirectory:
    """A directory with `config.json` and `model*.safetensors`; `gguf` is the header of the file that it was made of."""

    path: Path
    config: Mapping[str, Any]
    tensors: tuple[Tensor, ...]
    weight_bytes: int
    gguf: Mapping[str, Any] | None

    @classmethod
    def read(cls, path: Path) -> "ModelDirectory":
        """Look into a directory.

        Raises:
            NotAModel: if it lacks a part, or a part cannot be read.
        """
        gguf = path / GGUF_HEADER_FILE
        try:
            if not path.is_dir():
                raise NotAModel(f"{path} is no directory")
            found = cls.of_parts(path, {file.name: file for file in path.iterdir()})
            return replace(found, gguf=_json(gguf)) if gguf.is_file() else found
        # A folder may be entered and yet not be listed: another user's, or one that macOS protects.
        except OSError as error:
            raise NotAModel(f"{path} cannot be read: {error.strerror}") from error

    @classmethod
    def of_parts(cls, path: Path, parts: Mapping[str, Path]) -> "ModelDirectory":
        """The directory that files will make when they have these names again.

        Raises:
            NotAModel: if a part is missing or cannot be read.
        """
        if "config.json" not in parts:
            raise NotAModel(f"{path} has no config.json")
        config = _json(parts["config.json"])
        files = [parts[name] for name in sorted(parts) if fnmatch(name, "model*.safetensors")]
        if not files:
            raise NotAModel(f"{path} has no model*.safetensors")
        tensors = tuple(tensor for file in files for tensor in _header(file))
        return cls(path, config, tensors, sum(file.stat().st_size for file in files), None)

    @classmethod
    def of_gguf(cls, path: Path, directory: Path, *, arrays: bool = False) -> "ModelDirectory":
        """The directory that a GGUF file is or will be turned into, told by the file's header alone.

        Raises:
            NotAModel: if the file cannot be read.
        """
        try:
            return cls(directory, {}, (), path.stat().st_size, summary_of(path, arrays=arrays))
        except (NotGguf, OSError) as error:
            raise NotAModel(f"{path} cannot be read: {error}") from error

    @property
    def family(self) -> str:
        if self.gguf:
            return str(self.gguf["metadata"].get("general.architecture", ""))
        return str(self.config.get("model_type", ""))

    @property
    def details(self) -> Details:
        return Details(
            format="gguf" if self.gguf else "safetensors",
            family=self.family,
            families=(self.family,),
            parameter_size=human_count(self.parameter_count),
            quantization_level=str(self.gguf["file_type"]) if self.gguf else self._quantization,
            context_length=self.context_length,
            embedding_length=self._number("hidden_size", "dim") or self._gguf_number("embedding_length"),
        )

    @cached_property
    def embedder(self) -> Embedder | None:
        """How the model embeds; None for one that generates text (wire-spec 10.2)."""
        return Embedder.of(self.path, self.config, self.gguf)

    @property
    def context_length(self) -> int:
        """Tokens that the model was trained to see; 0 if it does not say."""
        return self._number("max_position_embeddings") or self._gguf_number("context_length")

    @property
    def cached_numbers_per_token(self) -> int:
        """Keys and values that each token leaves in a full cache; 0 if the configuration does not say."""
        heads = self._number("num_attention_heads", "n_heads")
        width = self._number("head_dim") or self._number("hidden_size", "dim") // max(1, heads)
        return (
            2 * self._number("num_hidden_layers", "n_layers") * (self._number("num_key_value_heads") or heads) * width
        )

    @cached_property
    def parameter_count(self) -> int:
        """Weights before quantisation."""
        if self.gguf:
            return int(self.gguf["parameter_count"])
        quantised = {t.name.removesuffix(".scales") for t in self.tensors if t.name.endswith(".scales")}
        ignored = {f"{layer}.{part}" for layer in quantised for part in ("scales", "biases")}
        return sum(self._weights_in(tensor, quantised) for tensor in self.tensors if tensor.name not in ignored)

    @property
    def model_info(self) -> dict[str, Any]:
        """What show tells of the model, keys sorted (wire-spec 5.5)."""
        if self.gguf:
            hidden = ("general.name", "tokenizer.chat_template")
            known = {key: value for key, value in self.gguf["metadata"].items() if key not in hidden}
        else:
            known = self._info_from_config()
        return dict(sorted({**known, "general.parameter_count": self.parameter_count}.items()))

    @property
    def listed_tensors(self) -> list[dict[str, Any]]:
        """Name, type and shape of each tensor; those of a GGUF file by block, as the reference lists them."""
        if self.gguf:
            return sorted(self.gguf["tensors"], key=lambda tensor: _by_block(tensor["name"]))
        ordered = sorted(self.tensors, key=lambda tensor: tensor.name)
        return [{"name": t.name, "type": t.dtype, "shape": list(t.shape)} for t in ordered]

    def _info_from_config(self) -> dict[str, Any]:
        numbers = {
            "context_length": self.context_length,
            "embedding_length": self._number("hidden_size", "dim"),
            "block_count": self._number("num_hidden_layers", "n_layers"),
            "attention.head_count": self._number("num_attention_heads", "n_heads"),
            "attention.head_count_kv": self._number("num_key_value_heads"),
            "feed_forward_length": self._number("intermediate_size", "hidden_dim"),
            "vocab_size": self._number("vocab_size"),
        }
        named = {f"{self.family}.{key}": value for key, value in numbers.items() if value}
        return {"general.architecture": self.family, "general.basename": self._basename, **named}

    @property
    def _basename(self) -> str:
        return str(self.config.get("_name_or_path") or self.path.name).rstrip("/").rpartition("/")[2]

    @property
    def _quantization(self) -> str:
        quantization = self._quantization_config
        if quantization:
            mode = str(quantization.get("mode", "affine"))
            return f"int{quantization.get('bits')}" if mode == "affine" else mode
        named = self.config.get("torch_dtype") or self.config.get("dtype")
        return str(named or next((_DTYPES[t.dtype] for t in self.tensors if t.dtype in _DTYPES), ""))

    @property
    def _quantization_config(self) -> Mapping[str, Any]:
        found = self.config.get("quantization") or self.config.get("quantization_config") or {}
        return found if isinstance(found, Mapping) else {}

    def _weights_in(self, tensor: Tensor, quantised: set[str]) -> int:
        layer = tensor.name.removesuffix(".weight")
        if layer not in quantised:
            return prod(tensor.shape)
        own = self._quantization_config.get(layer)
        bits = (own if isinstance(own, Mapping) else self._quantization_config).get("bits", 4)
        return prod(tensor.shape) * _PACKED_BITS // int(bits)

    def _gguf_number(self, key: str) -> int:
        found = self.gguf["metadata"].get(f"{self.family}.{key}") if self.gguf else None
        return found if isinstance(found, int) else 0

    def _number(self, *keys: str) -> int:
        """A number of the configuration by the first of its names that is there; 0 if none is."""
        for config in (self.config, self.config.get("text_config")):
            for key in keys:
                if isinstance(config, Mapping) and isinstance(config.get(key), int):
                    return int(config[key])
        return 0


def inspect(path: Path) -> ModelDirectory:
    """`ModelDirectory.read`, remembered for as long as the directory and its configuration stay as they are.

    Raises:
        NotAModel: as `read` does.
    """
    try:
        stamp = path.stat().st_mtime_ns, (path / "config.json").stat().st_mtime_ns
    except OSError as error:
        raise NotAModel(f"{path} is no model directory: {error.strerror}") from error
    return _remembered(path, stamp)


@lru_cache(maxsize=256)
def _remembered(path: Path, stamp: tuple[int, int]) -> ModelDirectory:
    return ModelDirectory.read(path)


def human_count(count: int) -> str:
    """`7B`, `7.6B`, `134.52M`, `512K`, `64` (wire-spec 5.5)."""
    for size, letter, decimals in ((10**9, "B", 1), (10**6, "M", 2)):
        if count >= size:
            return f"{count / size:.{0 if count % size == 0 else decimals}f}{letter}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)  # noqa: PLR2004 - thousands


def jinja_template(path: Path) -> str:
    """The chat template in a model directory, where there is one."""
    beside = path / "chat_template.jinja"
    try:
        if beside.is_file():
            return beside.read_text(errors="replace")
        template = _json(path / "tokenizer_config.json").get("chat_template") or ""
    except (NotAModel, OSError):
        return ""
    if isinstance(template, list):
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), "")
    return str(template)


def _by_block(name: str) -> tuple[int, str]:
    parts = name.split(".")
    in_block = len(parts) > 1 and parts[0] == "blk" and parts[1].isdigit()
    return (int(parts[1]) if in_block else -1), name


def _json(path: Path) -> dict[str, Any]:
    try:
        content = orjson.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise NotAModel(f"{path.parent} has no {path.name}") from error
    except (OSError, ValueError) as error:
        raise NotAModel(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise NotAModel(f"{path} holds no JSON object")
    return content


def _header(path: Path) -> list[Tensor]:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _LONGEST_HEADER:
                raise NotAModel(f"{path} is no safetensors file")
            members = orjson.loads(file.read(length))
        return [_tensor(name, entry) for name, entry in members.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise NotAModel(f"{path} is no safetensors file: {error}") from error


def _tensor(name: str, entry: Mapping[str, Any]) -> Tensor:
    return Tensor(name, str(entry["dtype"]), tuple(int(size) for size in entry["shape"]))
