"""Loading a directory: equal logits from a GGUF and from safetensors, widening, end tokens, every reason to fail."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model
from safetensors.numpy import save_file

from mlx_ollama.worker.convert import convert
from mlx_ollama.worker.gguf_rope import llama3_factors
from mlx_ollama.worker.load import Device, Loaded, LoadError, load
from tests.worker.gguf_files import Array, TinyLlama, converted, demo_file, spm_metadata, write_directory, write_gguf

TOKENS = list(range(3, 40))
PROMPT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


def logits(model: Any) -> Array:
    return np.array(model(mx.array([TOKENS])))


def reference_logits(directory: Path) -> Array:
    mx.set_default_device(mx.Device(mx.cpu))
    model, _ = load_model(directory)
    return logits(model)


def greedy(loaded: Loaded, prompt: str, limit: int) -> list[int]:
    tokens = []
    for token, _ in generate_step(mx.array(loaded.tokenizer.encode(prompt)), loaded.model, max_tokens=limit):
        if token in loaded.eos_token_ids:
            break
        tokens.append(int(token))
    return tokens


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return converted(write_gguf(tmp_path / "m.gguf", TinyLlama()))


def edit(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({key: value for key, value in {**values, **changes}.items() if value is not None}))


def reason(directory: Path, device: Device = "cpu") -> str:
    with pytest.raises(LoadError) as caught:
        load(directory, device=device)
    return str(caught.value)


@pytest.mark.parametrize(
    ("tiny", "metadata"),
    [
        (TinyLlama(), {}),
        (TinyLlama(kv_heads=4), {}),
        (TinyLlama(head_dim=32, tied=True), {}),
        (TinyLlama(kind="Q4_0"), {}),
        (TinyLlama(kind="Q4_1", kv_heads=1), {}),
        (TinyLlama(kind="Q8_0", tied=True), {}),
        (TinyLlama(kind="BF16"), {}),
        (TinyLlama(), spm_metadata()),
    ],
)
def test_logits_equal_those_of_safetensors(tmp_path: Path, tiny: TinyLlama, metadata: Mapping[str, Any]) -> None:
    loaded = load(converted(write_gguf(tmp_path / "m.gguf", tiny, metadata)), device="cpu")
    reference = reference_logits(write_directory(tmp_path / "reference", tiny))
    assert reference.std() > 0.1
    assert np.array_equal(logits(loaded.model), reference)


@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3"])
def test_scaled_positions_equal_those_of_safetensors(tmp_path: Path, kind: str) -> None:
    tiny = TinyLlama()
    key = "llama.rope.scaling."
    metadata: dict[str, dict[str, Any]] = {
        "linear": {key + "type": "linear", key + "factor": 2.0},
        "yarn": {key + "type": "yarn", key + "factor": 4.0, key + "original_context_length": 64},
        "llama3": {},
    }
    scaling = {
        "linear": {"type": "linear", "factor": 2.0},
        "yarn": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        "llama3": {"type": "llama3", "factor": 8.0},
    }
    factors = {"rope_freqs.weight": (llama3_factors(8.0, 10000.0, 16).astype("<f4"), "F32")}
    source = write_gguf(tmp_path / "m.gguf", tiny, metadata[kind], factors if kind == "llama3" else None)
    ours = logits(load(converted(source), device="cpu").model)
    reference = write_directory(tmp_path / "reference", tiny, scaling[kind])
    assert np.array_equal(ours, reference_logits(reference))
    assert not np.array_equal(ours, reference_logits(write_directory(tmp_path / "plain", tiny)))


def test_everything_is_float32_on_a_cpu(tmp_path: Path) -> None:
    tiny = TinyLlama(kind="Q4_0")
    loaded = load(converted(write_gguf(tmp_path / "m.gguf", tiny)), device="cpu")
    parameters = tree_flatten(loaded.model.parameters())
    assert {array.dtype for _, array in parameters} == {mx.float32}
    assert loaded.weight_bytes == sum(4 * array.size for _, array in parameters)
    assert loaded.config["quantization"]["bits"] == 4


def test_constants_without_floats_are_widened_too(directory: Path) -> None:
    """mxfp4 has exponents for scales, in uint8, and no biases."""
    weights: Any = mx.load(str(directory / "model.safetensors"))
    dense = weights.pop("lm_head.weight")
    quantised: Any = mx.quantize(dense, group_size=32, bits=4, mode="mxfp4", stream=mx.cpu)
    weights |= dict(zip(("lm_head.weight", "lm_head.scales"), quantised, strict=True))
    mx.save_safetensors(str(directory / "model.safetensors"), weights)
    edit(directory / "config.json", quantization={"group_size": 32, "bits": 4, "mode": "mxfp4"})
    loaded = load(directory, device="cpu")
    assert loaded.model.lm_head.weight.dtype == mx.float32
    assert loaded.model.lm_head.weight.shape == dense.shape


def test_end_tokens_come_from_everywhere(directory: Path) -> None:
    assert load(directory, device="cpu").eos_token_ids == {2, 0}
    edit(directory / "config.json", eos_token_id=7, text_config={"eos_token_id": [8]})
    edit(directory / "generation_config.json", eos_token_id=[9, 10])
    assert load(directory, device="cpu").eos_token_ids == {2, 7, 8, 9, 10}
    edit(directory / "config.json", eos_token_id=None, text_config=None)
    edit(directory / "generation_config.json", eos_token_id=None)
    assert load(directory, device="cpu").eos_token_ids == {2}


def test_tokenizer_survives_transformers(tmp_path: Path) -> None:
    metadata = spm_metadata() | {"tokenizer.chat_template": "{{ messages[0].content }}!"}
    tokenizer = load(converted(write_gguf(tmp_path / "m.gguf", TinyLlama(), metadata)), device="cpu").tokenizer
    ids = tokenizer.encode("What is  it?")
    assert ids[0] == tokenizer.bos_token_id == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == "What is  it?"
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi!"
    detokenizer = tokenizer.detokenizer
    for token in ids[1:]:
        detokenizer.add_token(token)
    detokenizer.finalize()
    assert detokenizer.text == "What is  it?"


# reasons to fail


def test_directories_that_are_none(tmp_path: Path) -> None:
    assert reason(tmp_path / "absent") == f"there is no model directory {tmp_path}/absent"
    assert reason(tmp_path) == f"the model directory {tmp_path} has no config.json"
    edit(tmp_path / "config.json", model_type="llama")
    assert reason(tmp_path) == f"the model directory {tmp_path} has no weights (model*.safetensors)"


def test_damaged_config(directory: Path) -> None:
    config = directory / "config.json"
    edit(config, num_hidden_layers=3)
    assert reason(directory).startswith(f"the weights in {directory} do not make a llama model: ")
    edit(config, hidden_size=None)
    assert "hidden_size" in reason(directory)
    edit(config, model_type=None)
    assert reason(directory) == "config.json names no model_type"
    config.write_text("[]")
    assert reason(directory) == "config.json holds no JSON object"
    config.write_text("{")
    assert reason(directory).startswith("config.json cannot be read: ")


def test_model_types_are_refused_by_name(directory: Path) -> None:
    edit(directory / "config.json", model_type="no_such_llm")
    assert reason(directory) == "the model type no_such_llm is not supported"
    edit(directory / "config.json", model_type="mllama", vision_config={})
    assert reason(directory) == (
        "the model type mllama needs a vision encoder, which is not supported: only text models are"
    )


def test_a_library_that_would_end_the_process_gives_a_reason(directory: Path) -> None:
    """mlx-lm does so for a model whose own package is missing."""
    edit(directory / "config.json", model_type="olmo")
    assert reason(directory) == (
        "the model type olmo cannot be loaded: mlx-lm gave up (exit status 1): "
        "To run olmo install ai2-olmo: pip install ai2-olmo"
    )


def test_code_of_the_model_is_not_run(directory: Path) -> None:
    (directory / "evil.py").write_text("raise SystemExit('ran')")
    edit(directory / "config.json", model_file="evil.py")
    assert reason(directory).startswith(f"the weights in {directory} do not make a llama model: ")
    edit(directory / "config.json", model_file=None)
    edit(directory / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]}, tokenizer_class="Evil")
    assert reason(directory).startswith(f"the tokenizer in {directory} cannot be loaded: ")


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\xff" * 64])
def test_damaged_weights(directory: Path, content: bytes) -> None:
    (directory / "model.safetensors").write_bytes(content)
    assert reason(directory).startswith(f"the weights in {directory} cannot be read: ")


def test_truncated_weights(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert reason(directory).startswith(f"the weights in {directory} cannot be read: ")


def test_weights_of_another_model(directory: Path) -> None:
    save_file({"model.norm.weight": np.ones(64, "<f2")}, directory / "model.safetensors")
    assert reason(directory).startswith(f"the weights in {directory} do not make a llama model: ")


def test_tokenizers_that_are_none(directory: Path) -> None:
    (directory / "tokenizer.json").write_text("{")
    assert reason(directory).startswith(f"the tokenizer in {directory} cannot be loaded: ")
    (directory / "tokenizer.json").unlink()
    assert reason(directory).startswith(f"the tokenizer in {directory} cannot be loaded: ")


@pytest.mark.skipif(mx.is_available(mx.gpu), reason="there is a GPU")
def test_a_gpu_that_is_not_there(directory: Path) -> None:
    assert reason(directory, "gpu") == "there is no GPU that MLX can use"
    assert load(directory, device="auto").weight_bytes > 0


@pytest.mark.skipif(not mx.is_available(mx.gpu), reason="there is no GPU")
def test_nothing_is_widened_on_a_gpu(tmp_path: Path) -> None:
    loaded = load(converted(write_gguf(tmp_path / "m.gguf", TinyLlama(kind="Q4_0"))), device="gpu")
    assert {array.dtype for _, array in tree_flatten(loaded.model.parameters())} == {mx.uint32, mx.float16}


# in a process of its own: what the worker will do

WATCHED_LOAD = """
import sys
from mlx_ollama.worker.blas import preload_openblas
assert "mlx" not in sys.modules
preload_openblas()
from pathlib import Path
from mlx_ollama.worker.load import load
sys.addaudithook(lambda event, _: event.startswith("socket.") and sys.exit(f"network: {event}"))
load(Path(sys.argv[1]), device="cpu")
"""


def test_loading_never_touches_the_network(directory: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED_LOAD, str(directory)], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.real
def test_demo_model_answers(tmp_path: Path) -> None:
    convert(demo_file(), tmp_path / "m", lambda *_: None)
    loaded = load(tmp_path / "m", device="cpu")
    assert len(loaded.tokenizer.encode(PROMPT)) == 16
    answer = greedy(loaded, PROMPT, 12)
    assert answer == [504, 3575, 282, 4649, 314, 7042, 30]
    assert loaded.tokenizer.decode(answer) == "The capital of France is Paris."
    assert loaded.eos_token_ids == {0, 2}
    assert loaded.weight_bytes == 134515008 * 4
