import struct
from pathlib import Path

import pytest

from mlx_ollama.models.directory import ModelDirectory, NotAModel


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b"3",
        b'{"a": null}',
        b'{"a": 3}',
        b'{"a": {"shape": [1]}}',
        b'{"a": {"dtype": "F32"}}',
        b'{"a": {"dtype": "F32", "shape": null}}',
        b'{"a": {"dtype": "F32", "shape": ["x"]}}',
    ],
)
def test_odd_headers_are_no_model(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(NotAModel, match="no safetensors file"):
        ModelDirectory.read(tmp_path)


def test_a_file_cut_short_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"\x01\x00")
    with pytest.raises(NotAModel, match="no safetensors file"):
        ModelDirectory.read(tmp_path)
