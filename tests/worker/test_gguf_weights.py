"""Tensors: what is quantised keeps its value to the last bit, the rest becomes half precision, in shards."""

import json
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from safetensors import safe_open

from mlx_ollama.worker.gguf_file import GgufTensor
from mlx_ollama.worker.gguf_weights import Weight
from mlx_ollama.worker.shards import ArraySpec, plan_shards, write_shards
from tests.worker.gguf_files import Array, TinyLlama, converted, write_gguf


def blocks(kind: str, rows: int, columns: int) -> Array:
    """Random blocks, with every value of the packed integers and with constants of both signs."""
    random = np.random.default_rng(3)
    block, size = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    data = random.integers(0, 256, (rows, columns // block, size), dtype=np.uint8)
    for offset in {"Q4_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "Q2_K": (80, 82)}.get(kind, (0,)):
        constants = random.normal(0, 0.01, data.shape[:2]).astype("<f2")
        data[..., offset : offset + 2] = constants[..., None].view(np.uint8)
    return data.reshape(rows, -1)


def weight(kind: str, data: Array, columns: int) -> Weight:
    return Weight(GgufTensor("t", kind, (columns, len(data)), data), "layer", None, "F16")


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_quantised_tensors_keep_their_value_to_the_last_bit(kind: str) -> None:
    data = blocks(kind, 16, 96)
    moved = weight(kind, data, 96)
    words, scales, biases = (mx.array(np.ascontiguousarray(array)) for array in moved.arrays())
    ours = mx.dequantize(
        words, scales.astype(mx.float32), biases.astype(mx.float32), group_size=32, bits=moved.bits, stream=mx.cpu
    )
    assert np.array_equal(np.array(ours), gguf.dequantize(data, GGMLQuantizationType[kind]))


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K", "Q2_K", "IQ4_NL", "Q5_0"])
def test_other_types_become_float16(kind: str) -> None:
    data = blocks(kind, 8, 256)
    (ours,) = weight(kind, data, 256).arrays()
    assert ours.dtype == np.float16
    assert np.array_equal(ours, gguf.dequantize(data, GGMLQuantizationType[kind]).astype(np.float16))


def test_arrays_are_what_was_planned() -> None:
    for kind in ("Q4_0", "Q4_1", "Q8_0", "Q6_K", "F16", "BF16"):
        moved = weight(kind, blocks(kind, 4, 256) if kind.startswith("Q") else np.ones((4, 256), "<f2"), 256)
        assert [spec.nbytes for spec in moved.specs()] == [array.nbytes for array in moved.arrays()]


def test_one_half_precision_for_the_whole_model(tmp_path: Path) -> None:
    for kind, half in {"BF16": "BF16", "F32": "F16", "F16": "F16"}.items():
        directory = converted(write_gguf(tmp_path / f"{kind}.gguf", TinyLlama(kind=kind)))
        with safe_open(directory / "model.safetensors", "numpy") as file:
            assert {file.get_slice(name).get_dtype() for name in file.keys()} == {half}  # noqa: SIM118
        assert "quantization" not in json.loads((directory / "config.json").read_text())


def test_layers_of_another_width_are_named(tmp_path: Path) -> None:
    tiny = TinyLlama(kind="Q4_0")
    wide = np.asarray(gguf.quantize(np.ones((tiny.vocab, tiny.hidden), "<f4"), GGMLQuantizationType["Q8_0"]))
    dense = np.ones((tiny.hidden, tiny.ffn), "<f4")
    source = write_gguf(
        tmp_path / "m.gguf",
        tiny,
        tensors={"output.weight": (wide, "Q8_0"), "blk.1.ffn_down.weight": (dense, "F32")},
    )
    config = json.loads((converted(source) / "config.json").read_text())
    assert config["quantization"] == {"group_size": 32, "bits": 4, "lm_head": {"group_size": 32, "bits": 8}}


def test_shards(tmp_path: Path) -> None:
    specs = [ArraySpec(name, "F32", (size,)) for name, size in {"a": 4, "b": 4, "c": 20, "d": 1}.items()]
    shards = plan_shards(specs, limit=32)
    assert [[spec.name for spec in shard] for shard in shards] == [["a", "b"], ["c"], ["d"]]
    write_shards(tmp_path, shards, iter([np.full(spec.shape, i, "<f4") for i, spec in enumerate(specs)]))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 116}
    for i, spec in enumerate(specs):
        arrays: Any = mx.load(str(tmp_path / index["weight_map"][spec.name]))
        assert arrays[spec.name].tolist() == [i] * spec.shape[0]
