"""Every quantisation as a model: logits within its own error, the size on disk, the memory of the converter."""

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from mlx_lm.utils import load_model

from mlx_ollama.worker.load import load
from tests.worker.demo_layers import DemoLayers
from tests.worker.gguf_files import TinyLlama, converted, write_directory, write_gguf
from tests.worker.quantised import Array

TOKENS = list(range(3, 40))

# What the quantiser of llama.cpp calls a mixture gives more bits to some matrices.
_MORE_BITS = {"attn_v": "Q6_K", "ffn_down": "Q6_K", "output": "Q6_K"}
KINDS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "Q4_K_M": ("Q4_K", _MORE_BITS),
    "Q4_K_S": ("Q4_K", {"attn_v": "Q5_K", "ffn_down": "Q5_K", "output": "Q6_K"}),
    "Q5_K_M": ("Q5_K", _MORE_BITS),
    "Q6_K": ("Q6_K", {}),
    "IQ4_NL": ("IQ4_NL", {"ffn_down": "Q5_K", "output": "Q6_K"}),
    "Q4_0": ("Q4_0", {"output": "Q6_K"}),
    "Q4_1": ("Q4_1", {"output": "Q6_K"}),
    "Q5_0": ("Q5_0", {"output": "Q6_K"}),
    "Q5_1": ("Q5_1", {"output": "Q6_K"}),
    "Q8_0": ("Q8_0", {}),
    "F16": ("F16", {}),
    "BF16": ("BF16", {}),
    "F32": ("F32", {}),
}
UNROUNDED = {"Q8_0", "F16", "BF16", "F32"}
# Where the rows are no multiple of 256, llama.cpp takes these instead.
_SHORT_ROWS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def logits(directory: Path) -> Array:
    mx.set_default_device(mx.Device(mx.cpu))
    model, _ = load_model(directory)
    return np.array(model(mx.array([TOKENS])))


def rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def bytes_in(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def check_within_own_error(tmp_path: Path, tiny: TinyLlama, *, unrounded: bool) -> None:
    """The converted model differs less from the quantised one than that does from the one it was made of."""
    source = write_gguf(tmp_path / "m.gguf", tiny)
    directory = converted(source)
    ours = np.array(load(directory, device="cpu").model(mx.array([TOKENS])))
    quantised = logits(write_directory(tmp_path / "quantised", tiny))
    if unrounded:
        assert np.array_equal(ours, quantised)
    else:
        before = logits(write_directory(tmp_path / "before", dataclasses.replace(tiny, kind="F32", mixture={})))
        assert rms(ours - quantised) < 0.8 * rms(quantised - before)
    assert bytes_in(directory) <= 1.3 * source.stat().st_size


@pytest.mark.parametrize("name", KINDS)
def test_a_model_of_random_weights(tmp_path: Path, name: str) -> None:
    kind, mixture = KINDS[name]
    tiny = TinyLlama(kind, hidden=256, ffn=512, head_dim=64, mixture=mixture)
    check_within_own_error(tmp_path, tiny, unrounded=name in UNROUNDED)


@pytest.mark.real
@pytest.mark.parametrize("name", KINDS)
def test_layers_of_the_demo_model(tmp_path: Path, name: str) -> None:
    kind, mixture = KINDS[name]
    mixture = {tail: each if tail == "ffn_down" else _SHORT_ROWS.get(each, each) for tail, each in mixture.items()}
    down = mixture.get("ffn_down", kind)
    tiny = DemoLayers(_SHORT_ROWS.get(kind, kind), mixture={**mixture, "ffn_down": down})
    unrounded = not {tiny.kind, *tiny.mixture.values()} & {"Q4_K", "Q5_K", "Q6_K", "IQ4_NL"}
    check_within_own_error(tmp_path, tiny, unrounded=unrounded)


# the converter's memory

# The peak of this process alone: what `getrusage` tells begins with the peak of the process that started it.
WATCHED_CONVERSION = """
import re, sys
from pathlib import Path
from mlx_ollama.worker.convert import convert
convert(Path(sys.argv[1]), Path(sys.argv[2]), lambda *_: None)
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def peak(source: Path) -> int:
    """In bytes, of converting `source` beside itself."""
    command = [sys.executable, "-c", WATCHED_CONVERSION, str(source), str(source.with_suffix(""))]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) << 10


@dataclasses.dataclass(frozen=True)
class Zeros(TinyLlama):
    """A large file in no time."""

    def tensors(self) -> dict[str, Array]:
        def zeros(name: str, rows: int, columns: int) -> Array:
            kind = GGMLQuantizationType[self.mixture.get(name, self.kind)]
            shape = gguf.quant_shape_to_byte_shape((rows, columns), kind)
            return np.zeros(shape, "u1") if kind.name == "Q6_K" else np.zeros((rows, columns), "<f2")

        vector = np.zeros(self.hidden, "<f4")
        tensors = {"token_embd.weight": zeros("token_embd", self.vocab, self.hidden), "output_norm.weight": vector}
        for layer in range(self.layers):
            own = {name: zeros(name, *shape) for name, shape in self.matrices().items()}
            own |= {"attn_norm": vector, "ffn_norm": vector}
            tensors |= {f"blk.{layer}.{name}.weight": array for name, array in own.items()}
        return tensors


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_memory_is_bounded_by_one_tensor(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden": 1024, "ffn": 1024, "heads": 8, "kv_heads": 8, "head_dim": 128, "tied": True}
    small = peak(write_gguf(tmp_path / "small.gguf", Zeros(layers=1, **sizes)))
    large = Zeros(layers=12, vocab=1 << 16, mixture={"token_embd": "Q6_K"}, **sizes)
    source = write_gguf(tmp_path / "large.gguf", large)
    largest = (1 << 16) * 1024 * 210 // 256
    assert source.stat().st_size > 4 * largest
    assert peak(source) - small < 1.2 * largest
    assert bytes_in(source.with_suffix("")) <= 1.3 * source.stat().st_size
