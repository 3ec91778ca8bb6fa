"""Weights in another form: what is on the disk when the directory appears."""

from pathlib import Path

import pytest

from mlx_ollama.worker.quantize import quantize
from tests.support.syncs import Syncs
from tests.worker.gguf_files import TinyLlama, write_directory


def _source(folder: Path) -> Path:
    directory = write_directory(folder / "source", TinyLlama(layers=1))
    (directory / "tokenizer.json").write_text("{}")
    return directory


def test_all_of_a_directory_is_on_the_disk_before_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, destination = _source(tmp_path), tmp_path / "small"
    syncs = Syncs(destination, monkeypatch)
    quantize(source, destination, "Q8_0", lambda *_: None)
    files = list(destination.iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in files}
    assert all(map(syncs.is_before, [*files, destination]))
    assert syncs.is_after(tmp_path)
