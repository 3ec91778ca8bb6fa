"""Loads an encoder from a directory with Hugging Face's names for its weights."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_ollama.errors import LoadFailed
from mlx_ollama.worker.encoder import Encoder, Shape

_EMBEDDINGS = {
    "word_embeddings": "words",
    "position_embeddings": "positions",
    "token_type_embeddings": "types",
    "LayerNorm": "norm",
}
_IN_LAYER = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "attended",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "widen",
    "output.dense": "narrow",
    "output.LayerNorm": "norm",
    # DistilBERT's words for the same
    "attention.q_lin": "query",
    "attention.k_lin": "key",
    "attention.v_lin": "value",
    "attention.out_lin": "attended",
    "sa_layer_norm": "attention_norm",
    "ffn.lin1": "widen",
    "ffn.lin2": "narrow",
    "output_layer_norm": "norm",
    # Nomic's; its queries, keys and values are one
    "attn.Wqkv": "qkv",
    "attn.out_proj": "attended",
    "norm1": "attention_norm",
    "mlp.fc11": "widen",
    "mlp.fc12": "gate",
    "mlp.fc2": "narrow",
    "norm2": "norm",
}
_PROJECTIONS = ("query", "key", "value")
_PARTS = {"gamma": "weight", "beta": "bias"}
"""What TensorFlow called the parts of a norm; old files still do."""

_NAME = re.compile(
    r"^(?:\w+\.)?"
    r"(?:embeddings\.(?P<embedding>\w+)|(?:encoder|transformer)\.layers?\.(?P<layer>\d+)\.(?P<inner>[\w.]+?)|emb_ln)"
    r"\.(?P<part>weight|bias|gamma|beta)$"
)


def load_encoder(directory: Path, config: Mapping[str, Any]) -> tuple[Encoder, Shape]:
    """The encoder in a directory, its weights in memory; dense, and float32 on a CPU.

    Raises:
        LoadFailed: with a reason that a user understands.
    """
    shape = Shape.of(config)
    encoder = Encoder(shape)
    try:
        stored: dict[str, mx.array] = {}
        for file in sorted(directory.glob("model*.safetensors")):
            loaded: Any = mx.load(str(file))
            stored |= loaded
        dense = _dense(stored, _quantization(config))
        weights = {ours: array for name, array in dense.items() if (ours := _our_name(name))}
        encoder.load_weights(list(_parted(weights).items()))
        mx.eval(encoder.parameters())
    except RuntimeError as error:
        raise LoadFailed(f"the weights in {directory} cannot be read: {error}") from error
    except ValueError as error:
        reason = " ".join(str(error).split())[:300]
        raise LoadFailed(f"the weights in {directory} do not make a {config['model_type']} model: {reason}") from error
    return encoder, shape


def weight_bytes(module: Any) -> int:
    """What a module's weights hold in memory."""
    return sum(array.nbytes for _, array in tree_flatten(module.parameters()))


def read_config(directory: Path) -> dict[str, Any]:
    """A directory's config.json.

    Raises:
        LoadFailed: if it cannot be read.
    """
    try:
        config = json.loads((directory / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise LoadFailed(f"config.json cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise LoadFailed("config.json holds no JSON object")
    return config


def _our_name(name: str) -> str | None:
    """Where a stored array belongs; None for what embedding does not need: the pooler, heads, tables of positions."""
    found = _NAME.match(name)
    if found is None:
        return None
    part = _PARTS.get(found["part"], found["part"])
    if not found["inner"]:
        ours = _EMBEDDINGS.get(found["embedding"] or "LayerNorm")
        return f"{ours}.{part}" if ours else None
    inner = _IN_LAYER.get(found["inner"])
    return f"layers.{found['layer']}.{inner}.{part}" if inner else None


def _parted(weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Queries, keys and values apart, where they are one."""
    parted: dict[str, mx.array] = {}
    for name, array in weights.items():
        if ".qkv." in name:
            parts = mx.split(array, 3)
            parted |= {name.replace("qkv", own): part for own, part in zip(_PROJECTIONS, parts, strict=True)}
        else:
            parted[name] = array
    return parted


def _dense(weights: Mapping[str, mx.array], quantization: dict[str, Any]) -> dict[str, mx.array]:
    """Quantised layers unpacked: encoders are small, and the time goes into reading, not into memory."""
    dense = {}
    for name, array in weights.items():
        layer, _, part = name.rpartition(".")
        scales, biases = weights.get(f"{layer}.scales"), weights.get(f"{layer}.biases")
        if part in ("scales", "biases"):
            continue
        if part == "weight" and scales is not None:
            # A layer may have a form of its own, by the name that it is stored under.
            form = quantization | (quantization.get(layer) or {})
            whole = mx.dequantize(
                array,
                _widened(scales),
                None if biases is None else _widened(biases),
                group_size=int(form.get("group_size", 64)),
                bits=int(form.get("bits", 4)),
                mode=str(form.get("mode", "affine")),
            )
            dense[name] = _widened(whole)
        else:
            dense[name] = _widened(array)
    return dense


def _widened(array: mx.array) -> mx.array:
    """Half precision as float32 on a CPU, where its products are unusably slow; integers as they are."""
    on_cpu = mx.default_device() == mx.Device(mx.cpu)
    return array.astype(mx.float32) if on_cpu and mx.issubdtype(array.dtype, mx.floating) else array


def _quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    found = config.get("quantization") or config.get("quantization_config") or {}
    return found if isinstance(found, dict) else {}
