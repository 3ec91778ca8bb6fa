"""Weights in another form: what is on the disk when the directory appears, and what is told of the making."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models import phi3
from mlx_lm.utils import save_model

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


def _phi(folder: Path) -> Path:
    """A model of which mlx-lm prints that it leaves something out."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 64, "num_attention_heads": 2}
    config = {"model_type": "phi3", **sizes, "rms_norm_eps": 1e-5, "vocab_size": 64}
    directory = folder / "source"
    model = phi3.Model(phi3.ModelArgs(**config))
    model.set_dtype(mx.float16)
    save_model(directory, model)
    scaling = {"type": "yarn", "long_factor": [1.0]}
    (directory / "config.json").write_text(json.dumps({**config, "rope_scaling": scaling}))
    return directory


def _run(source: Path, *arguments: Path | str, **options: Any) -> tuple[list[dict[str, Any]], str]:
    """What is told, and what is complained of."""
    command = [sys.executable, "-m", "mlx_ollama.worker.quantize", str(source), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == ("error" in lines[-1])
    return lines, done.stderr


def test_what_mlx_lm_prints_is_not_told(tmp_path: Path) -> None:
    source = _phi(tmp_path)
    total = (source / "model.safetensors").stat().st_size
    lines, complaints = _run(source, tmp_path / "small", "Q8_0")
    assert lines == [{"status": "quantizing", "completed": done, "total": total} for done in (0, total)]
    assert "[WARNING] rope_scaling" in complaints


def _without_weights(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"none")


def _of_olmo(directory: Path) -> None:
    (directory / "config.json").write_text('{"model_type": "olmo"}')


def _without_sizes(directory: Path) -> None:
    (directory / "config.json").write_text('{"model_type": "llama", "rope_scaling": 7}')


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_of_olmo, "the model cannot be read: mlx-lm gave up (exit status 1): To run olmo install ai2-olmo: "),
        (_without_weights, "the model cannot be read: "),
        (_without_sizes, "the model cannot be read: "),
    ],
)
def test_every_failure_of_mlx_lm_has_a_reason(tmp_path: Path, damage: Callable[[Path], None], reason: str) -> None:
    source = _source(tmp_path)
    damage(source)
    lines, complaints = _run(source, tmp_path / "small", "F16")
    assert lines[-1]["error"].startswith(reason)
    assert "Traceback" not in complaints
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    lines, _ = _run(
        _source(tmp_path),
        tmp_path / "small",
        "F32",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
    )
    assert lines[-1]["error"].startswith("the model cannot be brought into the form F32: ")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
