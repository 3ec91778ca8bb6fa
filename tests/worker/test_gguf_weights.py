"""Tensors as arrays: a few rows at a time, what is not quantised in one precision, in shards."""

import json
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from safetensors import safe_open

from mlx_ollama.worker import gguf_weights
from mlx_ollama.worker.gguf_file import GgufTensor
from mlx_ollama.worker.gguf_weights import Weight, converted_pieces
from mlx_ollama.worker.shards import ArraySpec, plan_shards, write_shards
from tests.worker.gguf_files import TinyLlama, converted, write_gguf
from tests.worker.quantised import Array, random_rows


def weight(kind: str, data: Array, columns: int, rows: Array | None = None) -> Weight:
    tensor = GgufTensor("t", kind, (columns, len(data)), data.nbytes, lambda: data)
    return Weight(tensor, "layer.weight", "F16", rows)


@pytest.mark.parametrize("kind", ["Q4_0", "Q6_K", "F16", "BF16", "F32"])
@pytest.mark.parametrize("backwards", [False, True])
def test_pieces_make_what_was_planned(kind: str, backwards: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = {"F16": "<f2", "BF16": "<u2", "F32": "<f4"}
    data = np.ones((70, 256), dense[kind]) if kind in dense else random_rows(kind, 70, 256)
    moved = weight(kind, data.view("u1") if kind == "BF16" else data, 256, np.arange(70)[::-1] if backwards else None)
    whole = dict(moved.pieces())
    assert {spec.name: spec.shape for spec in moved.specs()} == {name: each.shape for name, each in whole.items()}
    assert {spec.name: spec.nbytes for spec in moved.specs()} == {name: each.nbytes for name, each in whole.items()}

    monkeypatch.setattr(gguf_weights, "_CHUNK", 16 * 256)
    pieces = list(moved.pieces())
    assert len(pieces) == 5 * len(whole)
    for name, array in whole.items():
        assert np.array_equal(np.concatenate([piece for own, piece in pieces if own == name]), array)


def test_progress_in_a_large_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_weights, "_CHUNK", 16 * 256)
    monkeypatch.setattr(gguf_weights, "_STRIDE_BYTES", 30 * 210)
    moved = weight("Q6_K", random_rows("Q6_K", 70, 256), 256)
    heard: list[int] = []
    for _ in converted_pieces([moved, moved], heard.append):
        pass
    assert heard == [rows * 210 for rows in (32, 64, 70, 70 + 32, 70 + 64, 140)]


@pytest.mark.parametrize(("kind", "dtype"), [("BF16", "BF16"), ("F32", "F32"), ("F16", "F16")])
def test_one_precision_for_the_whole_model(tmp_path: Path, kind: str, dtype: str) -> None:
    directory = converted(write_gguf(tmp_path / f"{kind}.gguf", TinyLlama(kind=kind)))
    with safe_open(directory / "model.safetensors", "numpy") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {dtype}  # noqa: SIM118
    assert "quantization" not in json.loads((directory / "config.json").read_text())


def test_modules_of_another_form_are_named(tmp_path: Path) -> None:
    tiny = TinyLlama(kind="Q4_0")
    wide = np.asarray(gguf.quantize(np.ones((tiny.vocab, tiny.hidden), "<f4"), GGMLQuantizationType["Q8_0"]))
    dense = np.ones((tiny.hidden, tiny.ffn), "<f4")
    source = write_gguf(
        tmp_path / "m.gguf",
        tiny,
        tensors={
            "output.weight": (wide, "Q8_0"),
            "blk.0.ffn_gate.weight": (random_rows("IQ4_NL", 96, 64), "IQ4_NL"),
            "blk.1.ffn_down.weight": (dense, "F32"),
        },
    )
    config = json.loads((converted(source) / "config.json").read_text())
    assert config["quantization"] == {
        "group_size": 32,
        "bits": 4,
        "lm_head": {"group_size": 32, "bits": 8},
        "model.layers.0.mlp.gate_proj": {"group_size": 64, "bits": 5},
    }


def test_shards(tmp_path: Path) -> None:
    specs = [ArraySpec(name, "F32", (size,)) for name, size in {"a": 4, "b": 4, "c": 20, "d": 1}.items()]
    shards = plan_shards(specs, limit=32)
    assert [[spec.name for spec in shard] for shard in shards] == [["a", "b"], ["c"], ["d"]]
    halves = [(spec, np.full(spec.shape[0] // 2, i, "<f4")) for i, spec in enumerate(specs[:3])]
    pieces = [(spec.name, half) for _ in range(2) for spec, half in halves]
    write_shards(tmp_path, shards, [*pieces, ("d", np.full(1, 3, "<f4"))])
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 116}
    for i, spec in enumerate(specs):
        arrays: Any = mx.load(str(tmp_path / index["weight_map"][spec.name]))
        assert arrays[spec.name].tolist() == [i] * spec.shape[0]


@pytest.mark.parametrize("came", [[], [("a", np.ones(3, "<f4"))], [("a", np.ones(5, "<f4"))], [("a", np.ones((4, 1)))]])
def test_what_was_not_planned_is_not_written(tmp_path: Path, came: list[tuple[str, Array]]) -> None:
    with pytest.raises(ValueError, match="was planned"):
        write_shards(tmp_path, [[ArraySpec("a", "F32", (4,))]], came)
