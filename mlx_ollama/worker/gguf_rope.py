"""The scaling of rotary positions, from the metadata and the tables of a GGUF file to the words of a config.json."""

import math
from typing import Any

import numpy as np

from mlx_ollama.worker.gguf_file import Array, ConversionError, GgufFile, GgufTensor
from mlx_ollama.worker.gguf_sizes import rotated_size

Scaling = dict[str, Any]

# Llama 3.1's rule has four numbers; llama.cpp stores its result as a tensor and keeps none of them. These three are the
# same in every model that was published with the rule, and the fourth is the tensor's largest element.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}

TABLES = frozenset({"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"})

# How far an attention factor may be from the one that follows from the context lengths.
_ROUNDING = 1e-3


def rope_theta(file: GgufFile, default: float = 10000.0) -> float:
    return float(file.own("rope.freq_base", default))


def rope_scaling(file: GgufFile) -> Scaling | None:
    """linear, yarn, llama3 recovered from its table of factors, or longrope; None for positions as they are.

    Raises ConversionError for any other, and for two at once.
    """
    kind = str(file.own("rope.scaling.type", "none"))
    tables = [tensor.name for tensor in file.tensors if tensor.name in TABLES]
    if tables and kind not in ("none", "longrope"):
        raise ConversionError(f"unsupported rope scaling: {kind} together with {tables[0]}")
    factors = file.tensor("rope_freqs.weight")
    if factors is not None:
        return _llama3(factors, file)
    long, short = file.tensor("rope_factors_long.weight"), file.tensor("rope_factors_short.weight")
    if long is not None and short is not None:
        return _longrope(file, long, short)
    if kind == "none":
        return _linear(file.own("rope.scale_linear", 1.0))
    if kind == "linear":
        return _linear(file.require_own("rope.scaling.factor"))
    if kind == "yarn":
        return _yarn(file)
    raise ConversionError(f"unsupported rope scaling: {kind}")


def _linear(factor: float) -> Scaling | None:
    return None if factor == 1.0 else {"rope_type": "linear", "factor": factor}


def _yarn(file: GgufFile) -> Scaling:
    factor = file.require_own("rope.scaling.factor")
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": file.require_own("rope.scaling.original_context_length"),
        "beta_fast": file.own("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": file.own("rope.scaling.yarn_beta_slow", 1.0),
        **_yarn_attention(file, factor),
    }


def _yarn_attention(file: GgufFile, factor: float) -> Scaling:
    """Yarn makes queries and keys 1 + 0.1 log(factor) times as large; some files have a factor beside that.

    mlx-lm has one before the logarithm, which comes to the same.
    """
    own = file.own("rope.scaling.attn_factor", file.own("rope.scaling.yarn_attn_factor", 1.0))
    if own == 1.0 or factor <= 1.0:
        return {}
    logarithm = 0.1 * math.log(factor)
    return {"mscale": (own * (1.0 + logarithm) - 1.0) / logarithm}


def _llama3(table: GgufTensor, file: GgufFile) -> Scaling:
    factors = np.asarray(table.open())
    factor = float(factors.max())
    size = rotated_size(file)
    if factors.shape != (size // 2,) or not np.allclose(
        factors, llama3_factors(factor, rope_theta(file), size), rtol=1e-4
    ):
        raise ConversionError("unsupported rope scaling: rope_freqs.weight does not follow llama 3's rule")
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3}


def llama3_factors(factor: float, base: float, size: int) -> Array:
    """What each of the size/2 frequencies is divided by, after Llama 3.1's reference code.

    Wavelengths up to a quarter of the original context are kept, those beyond all of it are stretched by `factor`, and
    between the two the frequency is interpolated.
    """
    context = _LLAMA3["original_max_position_embeddings"]
    low, high = _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"]
    wavelengths = 2 * math.pi * base ** (np.arange(0, size, 2, dtype=np.float64) / size)
    smooth = np.clip((context / wavelengths - low) / (high - low), 0.0, 1.0)
    return 1.0 / ((1.0 - smooth) / factor + smooth)


def _longrope(file: GgufFile, long: GgufTensor, short: GgufTensor) -> Scaling:
    """Two tables of factors, for contexts beyond the original one and within it.

    The factor of the attention follows from the two context lengths, in mlx-lm as in the published models.
    """
    original = file.count("rope.scaling.original_context_length")
    stretch = file.count("context_length") / original
    expected = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    if abs(file.own("rope.scaling.attn_factor", expected) - expected) > _ROUNDING:
        raise ConversionError("unsupported rope scaling: longrope with an attention factor of its own")
    tables = {"long_factor": long, "short_factor": short}
    for table in tables.values():
        if table.shape != (rotated_size(file) // 2,):
            raise ConversionError(f"unsupported rope scaling: {table.name} is not a factor for each frequency")
    return {
        "type": "longrope",
        **{name: [float(factor) for factor in table.open()] for name, table in tables.items()},
        "original_max_position_embeddings": original,
    }
