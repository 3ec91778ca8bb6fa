"""Converting: every refusal, a directory that appears whole or not at all, and the demo model."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from mlx_ollama.worker.convert import check_destination, convert, main
from mlx_ollama.worker.gguf_file import ConversionError, read_gguf
from tests.worker.gguf_files import (
    Array,
    TinyLlama,
    converted,
    demo_file,
    write_gguf,
)


def refusal(source: Path) -> str:
    """The reason for which a file is refused; nothing is left beside it."""
    with pytest.raises(ConversionError) as caught:
        converted(source)
    assert [path.name for path in source.parent.iterdir()] == [source.name]
    return str(caught.value)


def test_refuses_what_is_no_gguf(tmp_path: Path) -> None:
    source = tmp_path / "m.gguf"
    for content in (b"", b"GG", b"PK\x03\x04 and more"):
        source.write_bytes(content)
        assert refusal(source) == "supplied file was not in GGUF format"
    source.write_bytes(b"GGUF" + (1).to_bytes(4, "little"))
    assert refusal(source) == "GGUF version 1 is not supported"
    source.write_bytes(b"GGUF" + (3).to_bytes(4, "big"))
    assert refusal(source) == "big-endian GGUF files are not supported"


@pytest.mark.parametrize("part", [6, 20, 40, 700, 0.3, 0.7, -1])
def test_refuses_a_truncated_file(tmp_path: Path, part: float) -> None:
    source = write_gguf(tmp_path / "m.gguf", TinyLlama())
    content = source.read_bytes()
    source.write_bytes(content[: int(part if abs(part) >= 1 else part * len(content))])
    assert refusal(source) == "m.gguf is truncated or damaged"


def test_refuses_a_part_of_a_split_file(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", TinyLlama(), {"split.count": 3})
    assert refusal(source) == "m.gguf is one part of a split GGUF file: join the parts first"


def test_refuses_other_architectures_by_name(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", TinyLlama(), architecture="gemma4")
    assert refusal(source) == "unsupported architecture: gemma4"


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"llama.expert_count": 8}, "unsupported architecture: llama with a mixture of experts"),
        ({"llama.rope.dimension_count": 8}, "unsupported heads: 16 numbers, of which 8 are rotated, and 16 in a value"),
        (
            {"llama.attention.head_count_kv": [1, 2]},
            "unsupported llama.attention.head_count_kv: one positive number for the whole model is needed",
        ),
        (
            {"llama.rope.freq_base": "many"},
            "the file's metadata is inconsistent: could not convert string to float: 'many'",
        ),
        ({"llama.context_length": None}, "the file's metadata lacks llama.context_length"),
        ({"llama.block_count": 1 << 30}, "the file lacks the tensors of 1073741824 layers"),
        ({"llama.block_count": 3}, "the file lacks the tensor blk.2.attn_norm.weight"),
        ({"llama.block_count": 1}, "unsupported tensor: blk.1.attn_k.weight"),
        ({"llama.attention.head_count": 2}, "the tensor blk.0.attn_q.weight has 64 rows, and 2 heads of 16"),
        ({"llama.rope.scaling.type": "longrope"}, "unsupported rope scaling: longrope"),
        ({"llama.rope.scaling.type": "yarn"}, "the file's metadata lacks llama.rope.scaling.factor"),
        ({"tokenizer.ggml.model": "plamo2"}, "unsupported tokenizer: plamo2"),
        ({"tokenizer.ggml.model": None}, "the file's metadata lacks tokenizer.ggml.model"),
        ({"tokenizer.ggml.pre": "viking"}, "unsupported pre-tokenizer: viking"),
        ({"tokenizer.ggml.merges": None}, "the file's metadata lacks tokenizer.ggml.merges"),
    ],
)
def test_refuses_what_the_metadata_say(tmp_path: Path, metadata: dict[str, Any], reason: str) -> None:
    assert refusal(write_gguf(tmp_path / "m.gguf", TinyLlama(), metadata)) == reason


def test_refuses_an_inconsistent_tokenizer(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", TinyLlama(), {"tokenizer.ggml.merges": ["no such"]})
    assert refusal(source).startswith("the file's tokenizer is inconsistent: ")


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        ("output.weight", (np.ones((512, 64), "i1"), "I8"), "unsupported tensor type: I8 (of output.weight)"),
        ("output.weight", (np.ones((512, 34), "u1"), "MXFP4"), "unsupported tensor type: MXFP4 (of output.weight)"),
        (
            "output_norm.weight",
            (np.ones((1, 68), "u1"), "Q8_0"),
            "the tensor output_norm.weight has 2 dimensions, not 1",
        ),
        ("blk.0.attn_q.bias", (np.ones(64, "<f4"), "F32"), "unsupported tensor: blk.0.attn_q.bias"),
        ("blk.0.ffn_up.weight", None, "the file lacks the tensor blk.0.ffn_up.weight"),
        ("token_embd.weight", None, "the file lacks the tensor token_embd.weight"),
        (
            "output_norm.weight",
            (np.ones((2, 64), "<f4"), "F32"),
            "the tensor output_norm.weight has 2 dimensions, not 1",
        ),
        (
            "output.weight",
            (np.full((512, 64), 1e6, "<f4"), "F32"),
            "the tensor output.weight has weights too large for half precision",
        ),
        (
            "output.weight",
            (np.full((512, 68), 0x7B, "u1"), "Q8_0"),
            "the tensor output.weight has weights too large for half precision",
        ),
        (
            "rope_freqs.weight",
            (np.linspace(1, 8, 8, dtype="<f4"), "F32"),
            "unsupported rope scaling: rope_freqs.weight does not follow llama 3's rule",
        ),
    ],
)
def test_refuses_what_the_tensors_are(tmp_path: Path, name: str, tensor: tuple[Array, str] | None, reason: str) -> None:
    assert refusal(write_gguf(tmp_path / "m.gguf", TinyLlama(), tensors={name: tensor})) == reason


def test_refuses_two_rope_scalings(tmp_path: Path) -> None:
    metadata = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    factors = {"rope_freqs.weight": (np.ones(8, "<f4"), "F32")}
    source = write_gguf(tmp_path / "m.gguf", TinyLlama(), metadata, factors)
    assert refusal(source) == "unsupported rope scaling: linear together with rope_freqs.weight"


def test_refuses_a_tensor_type_that_has_no_name_yet(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", TinyLlama())
    content = source.read_bytes()
    after_name = content.index(b"output.weight") + len(b"output.weight")
    kind = after_name + 4 + 2 * 8  # the number of dimensions, then two of them
    source.write_bytes(content[:kind] + (250).to_bytes(4, "little") + content[kind + 4 :])
    assert refusal(source) == "unsupported tensor type: 250"


def test_refuses_a_destination_that_exists(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", TinyLlama())
    directory = converted(source)
    with pytest.raises(ConversionError, match="exists already"):
        converted(source)
    assert (directory / "config.json").exists()


def test_refuses_when_there_is_no_room(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="no room on disk: 1152921504606846976 bytes are needed"):
        check_destination(tmp_path / "m", 1 << 60)


# the process


def command(source: Path, destination: Path) -> list[str]:
    return [sys.executable, "-m", "mlx_ollama.worker.convert", str(source), str(destination)]


def run(source: Path, destination: Path, **options: Any) -> tuple[int, list[dict[str, Any]], str]:
    done = subprocess.run(command(source, destination), check=False, capture_output=True, text=True, **options)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_progress_is_one_object_a_line(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", TinyLlama())
    status, lines, errors = run(source, tmp_path / "deep" / "down" / "m")
    size = source.stat().st_size
    assert (status, errors) == (0, "")
    assert list(dict.fromkeys(line["status"] for line in lines)) == ["reading", "converting", "writing", "success"]
    assert all(line["total"] == size >= line["completed"] for line in lines)
    assert lines[-1] == {"status": "success", "completed": size, "total": size}
    assert sorted(path.name for path in (tmp_path / "deep" / "down").iterdir()) == ["m"]


def test_a_failure_is_a_line_and_a_status(tmp_path: Path) -> None:
    source = tmp_path / "m.gguf"
    source.write_bytes(b"nonsense")
    assert run(source, tmp_path / "m") == (
        1,
        [{"status": "reading", "completed": 0, "total": 8}, {"error": "supplied file was not in GGUF format"}],
        "",
    )


def test_failures_in_this_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    assert main([str(tmp_path / "absent.gguf"), str(tmp_path / "m")]) == 1
    assert "No such file" in json.loads(capsys.readouterr().out)["error"]
    assert main(["one"]) == 1
    assert json.loads(capsys.readouterr().out)["error"].startswith("usage: ")
    signal.signal(signal.SIGTERM, handler)


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", TinyLlama())
    limit = source.stat().st_size // 2  # of a file's size, which fails as a full disk does: in the middle of a write
    status, lines, _ = run(
        source, tmp_path / "m", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    assert (status, lines[-1]) == (1, {"error": "no room on disk"})
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_in_the_middle_leaves_no_destination(tmp_path: Path, kill: signal.Signals) -> None:
    # the progress of so many tensors overfills the pipe, so that the process waits in the middle of its work
    source = write_gguf(tmp_path / "m.gguf", TinyLlama(layers=150, ffn=32, hidden=32, heads=2, kv_heads=1))
    destination = tmp_path / "m"
    with subprocess.Popen(command(source, destination), stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        while b"converting" not in process.stdout.readline():
            pass
        leavings = list(tmp_path.glob(".partial-m-*"))
        assert len(leavings) == 1
        assert not destination.exists()
        os.kill(process.pid, kill)
    assert not destination.exists()
    assert leavings[0].exists() == (kill == signal.SIGKILL)
    converted(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "m.gguf"]


def test_it_stops_when_nobody_listens(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", TinyLlama(layers=150, ffn=32, hidden=32, heads=2, kv_heads=1))
    with subprocess.Popen(
        command(source, tmp_path / "m"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    ) as process:
        assert process.stdout is not None
        while b"converting" not in process.stdout.readline():
            pass
        process.stdout.close()
    assert process.returncode != 0
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_the_work_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", TinyLlama(layers=150, ffn=32, hidden=32, heads=2, kv_heads=1))
    with subprocess.Popen(command(source, tmp_path / "m"), stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        while b"converting" not in process.stdout.readline():
            pass
        # Held where it is, so that the other surely overtakes it.
        process.send_signal(signal.SIGSTOP)
        converted(source)
        assert len(list(tmp_path.glob(".partial-m-*"))) == 1
        process.send_signal(signal.SIGCONT)
        process.communicate()
    assert process.returncode == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "m.gguf"]


# the demo model

# `model_info` as the reference server shows it for this file.
DEMO_MODEL_INFO = {
    "general.architecture": "llama",
    "general.basename": "smollm2",
    "general.file_type": 3,
    "general.finetune": "8k-lc100k-mix1-ep2",
    "general.languages": None,
    "general.license": "apache-2.0",
    "general.organization": "HuggingFaceTB",
    "general.parameter_count": 134515008,
    "general.quantization_version": 2,
    "general.size_label": "135M",
    "general.type": "model",
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
    "llama.attention.layer_norm_rms_epsilon": 0.00001,
    "llama.block_count": 30,
    "llama.context_length": 8192,
    "llama.embedding_length": 576,
    "llama.feed_forward_length": 1536,
    "llama.rope.dimension_count": 64,
    "llama.rope.freq_base": 100000,
    "llama.vocab_size": 49152,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.ggml.add_space_prefix": False,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.merges": None,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.padding_token_id": 2,
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.token_type": None,
    "tokenizer.ggml.tokens": None,
    "tokenizer.ggml.unknown_token_id": 0,
}

# Prompts and the `context` that the reference server recorded with them.
DEMO_CONTEXTS = {
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    "The capital of France is Paris.": [
        *(1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198),
        *(504, 3575, 282, 4649, 314, 7042, 30),
    ],
    "<|im_start|>user\nParis<|im_end|>\n<|im_start|>assistant\n"
    '{\n  "city" : "Paris","population" : 3200000000000000\n}': [
        *(1, 4093, 198, 38634, 2, 198, 1, 520, 9531, 198, 107, 3805, 476, 20721, 18, 1577, 476, 38634, 14460, 23091),
        *(18, 1577, 216, 35, 34, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 198, 109),
    ],
    " Q: What is the capital of France? A:\nA:\nB:": [
        *(1606, 42, 1812, 314, 260, 3575, 282, 4649, 47, 330, 42, 198, 49, 42, 198, 50, 42),
    ],
}


@pytest.mark.real
def test_demo_model(tmp_path: Path) -> None:
    source = demo_file()
    directory = tmp_path / "m"
    convert(source, directory, lambda *_: None)
    summary = json.loads((directory / "gguf.json").read_text())
    dropped = {"general.name", "tokenizer.chat_template"}
    shown = {key: value for key, value in summary["metadata"].items() if key not in dropped}
    assert {**shown, "general.parameter_count": summary["parameter_count"]} == DEMO_MODEL_INFO
    assert (summary["file_type"], summary["size"], len(summary["tensors"])) == ("Q4_1", 98362432, 272)
    assert {"name": "blk.0.ffn_down.weight", "type": "Q4_1", "shape": [1536, 576]} in summary["tensors"]

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    for text, ids in DEMO_CONTEXTS.items():
        assert tokenizer.encode(text).ids == ids

    with safe_open(directory / "model.safetensors", "numpy") as file:
        norm = read_gguf(source).tensor("output_norm.weight")
        assert norm is not None
        assert np.array_equal(file.get_tensor("model.norm.weight").astype("<f4"), norm.open())
