"""Load a model directory: the model, its tokenizer, and the tokens that end an answer."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes, dequantize_model, load_model, load_tokenizer

from mlx_ollama.worker import gemma2
from mlx_ollama.worker.contained import GaveUp, contained

Device = Literal["auto", "cpu", "gpu"]
Classes = Callable[[dict[str, Any]], tuple[Any, Any]]
"""From a configuration to mlx-lm's class of model and that of its arguments."""

TOGETHER_BYTES = 256 << 20
"""Weights that come in at once: one at a time takes twice as long, and all would be in memory narrow and wide."""

# nothing of the model's own code is run, and nothing is looked up on the network
_TOKENIZER_OPTIONS = {"trust_remote_code": False, "local_files_only": True}


class LoadError(Exception):
    """The model cannot be loaded. The text is for the person who asked for it."""


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to run on the thread that loaded it.

    `tokenizer` is mlx-lm's TokenizerWrapper; `config` is config.json as mlx-lm reads it; `weight_bytes` is what the
    weights hold in memory, after widening.
    """

    model: Any
    tokenizer: Any
    config: dict[str, Any]
    eos_token_ids: frozenset[int]
    weight_bytes: int


def model_classes(config: dict[str, Any]) -> tuple[Any, Any]:
    """mlx-lm's classes, but for a model that it does not compute as it was published."""
    if config["model_type"] == "gemma2":
        return gemma2.Model, gemma2.ModelArgs
    model, arguments = _get_classes(config)
    return model, arguments


def load(directory: Path, *, device: Device = "auto", classes: Classes = model_classes) -> Loaded:
    """Load the model in a local directory and make `device` MLX's default one. `classes` chooses what to build.

    On a CPU all weights become float32: MLX's quantised and half-precision products are unusably slow there, and give
    other text. Call `preload_openblas` before this module is imported.

    Raises LoadError with a reason whatever goes wrong.
    """
    _check_directory(directory)
    config = _read_json(directory / "config.json")
    _use_device(device)
    model, loaded_config = _load_model(directory, config, classes)
    tokenizer = _load_tokenizer(directory, loaded_config)
    eos_token_ids = frozenset(_eos_token_ids(directory, config, tokenizer))
    weight_bytes = sum(array.nbytes for array in _parameters(model))
    return Loaded(model, tokenizer, loaded_config, eos_token_ids, weight_bytes)


def widen(model: Any) -> None:
    """Turn every weight into dense float32, in place, without a rounding on the way.

    The quantisation constants are widened first, so that the weights are computed in float32; formats whose constants
    are no floats (mxfp4 and its like) give bfloat16, which is exact for them, and are widened after.
    """
    model.set_dtype(mx.float32)
    dequantize_model(model)
    model.set_dtype(mx.float32)


def _check_directory(directory: Path) -> None:
    if not directory.is_dir():
        raise LoadError(f"there is no model directory {directory}")
    if not (directory / "config.json").is_file():
        raise LoadError(f"the model directory {directory} has no config.json")
    if not any(directory.glob("model*.safetensors")):
        raise LoadError(f"the model directory {directory} has no weights (model*.safetensors)")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise LoadError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise LoadError(f"{path.name} holds no JSON object")
    return value


def _use_device(device: Device) -> None:
    """MLX's own default is a GPU where there is one."""
    if device == "gpu" and not mx.is_available(mx.gpu):
        raise LoadError("there is no GPU that MLX can use")
    if device != "auto":
        mx.set_default_device(mx.Device(mx.cpu if device == "cpu" else mx.gpu))


def _load_model(directory: Path, config: Mapping[str, Any], classes: Classes) -> tuple[Any, dict[str, Any]]:
    if not isinstance(config.get("model_type"), str):
        raise LoadError("config.json names no model_type")
    try:
        with contained():
            # lazily, so that a weight is widened as it is read, and its narrow form never held
            model, loaded_config = load_model(directory, lazy=True, get_model_classes=classes)
        if mx.default_device() == mx.Device(mx.cpu):
            widen(model)
        for together in _groups(_parameters(model), TOGETHER_BYTES):
            mx.eval(together)
    except Exception as error:  # mlx-lm runs a module per architecture, and each fails in its own way
        raise LoadError(_model_failure(directory, config, error)) from error
    return model, loaded_config


def _model_failure(directory: Path, config: Mapping[str, Any], error: Exception) -> str:
    kind = config["model_type"]
    if "not supported" in str(error) and isinstance(error, ValueError):
        if "vision_config" in config:
            return f"the model type {kind} needs a vision encoder, which is not supported: only text models are"
        return f"the model type {kind} is not supported"
    if isinstance(error, GaveUp):
        return f"the model type {kind} cannot be loaded: {error}"
    if isinstance(error, RuntimeError):
        return f"the weights in {directory} cannot be read: {_first_line(error)}"
    return f"the weights in {directory} do not make a {kind} model: {_first_line(error)}"


def _load_tokenizer(directory: Path, config: Mapping[str, Any]) -> Any:
    try:
        return load_tokenizer(directory, _TOKENIZER_OPTIONS, eos_token_ids=config.get("eos_token_id"))
    except Exception as error:  # transformers promises no type
        raise LoadError(f"the tokenizer in {directory} cannot be loaded: {_first_line(error)}") from error


def _eos_token_ids(directory: Path, config: Mapping[str, Any], tokenizer: Any) -> Iterator[int]:
    """From everywhere a model may name them: mlx-lm lets one file hide what another says."""
    yield from tokenizer.eos_token_ids
    yield from _ids(config.get("eos_token_id"))
    yield from _ids((config.get("text_config") or {}).get("eos_token_id"))
    generation = directory / "generation_config.json"
    if generation.is_file():
        yield from _ids(_read_json(generation).get("eos_token_id"))


def _ids(value: int | list[int] | None) -> list[int]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _parameters(model: Any) -> Iterator[mx.array]:
    return (array for _, array in tree_flatten(model.parameters()))


def _groups(arrays: Iterable[mx.array], size: int) -> Iterator[list[mx.array]]:
    """In their order, as many together as make up so many bytes."""
    group, held = list[mx.array](), 0
    for array in arrays:
        group.append(array)
        held += array.nbytes
        if held >= size:
            yield group
            group, held = [], 0
    yield group


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
