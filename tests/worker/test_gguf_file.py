"""gguf.json, which the gateway reads."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from tests.worker.gguf_files import (
    TinyLlama,
    converted,
    write_gguf,
)


def test_summary(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", TinyLlama(kind="Q8_0"), {"general.file_type": 7, "general.tags": ["x"]})
    summary = json.loads((converted(source) / "gguf.json").read_text())
    assert summary["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert summary["size"] == source.stat().st_size
    assert summary["file_type"] == "Q8_0"
    assert summary["tensors"][0] == {"name": "token_embd.weight", "type": "Q8_0", "shape": [64, 512]}
    assert summary["parameter_count"] == sum(int(np.prod(tensor["shape"])) for tensor in summary["tensors"])
    metadata = summary["metadata"]
    assert list(metadata) == sorted(metadata)
    assert metadata["general.tags"] is None
    assert metadata["tokenizer.ggml.tokens"] is None
    assert metadata["llama.attention.layer_norm_rms_epsilon"] == 1e-5
    assert isinstance(metadata["llama.rope.freq_base"], int)


@pytest.mark.parametrize(("value", "name"), [(15, "Q4_K_M"), (0, "F32"), (1, "F16"), (3, "Q4_1"), (999, "unknown")])
def test_file_type(tmp_path: Path, value: int, name: str) -> None:
    source = write_gguf(tmp_path / "m.gguf", TinyLlama(), {"general.file_type": value})
    assert json.loads((converted(source) / "gguf.json").read_text())["file_type"] == name
