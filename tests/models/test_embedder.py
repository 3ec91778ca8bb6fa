"""What makes a directory an embedder, from its files alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_ollama.models.embedder import Embedder


def look(path: Path, gguf: dict[str, Any] | None = None, **config: Any) -> Embedder | None:
    return Embedder.of(path, config, gguf)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize(
    ("config", "embeds"),
    [
        ({"model_type": "llama"}, False),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, False),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, False),
        ({"model_type": "qwen3", "architectures": ["Qwen3Model"]}, True),
        ({"model_type": "bert"}, True),
        ({"model_type": "xlm-roberta", "architectures": ["XLMRobertaForMaskedLM"]}, True),
        ({"model_type": "llama", "architectures": "LlamaModel"}, False),
    ],
)
def test_by_architecture(tmp_path: Path, config: dict[str, Any], embeds: bool) -> None:
    found = look(tmp_path, **config)
    assert (found is not None) == embeds
    if found:
        assert found.guessed
        assert found.poolings == (("mean",) if found.encoder else ("lasttoken",))


def test_by_pooling(tmp_path: Path) -> None:
    write(tmp_path / "1_Pooling" / "config.json", {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False})
    found = look(tmp_path, model_type="qwen3")
    assert found
    assert (found.poolings, found.guessed, found.encoder) == (("lasttoken",), False, False)
    write(tmp_path / "1_Pooling" / "config.json", {"pooling_mode": ["mean", "cls"]})
    found = look(tmp_path, model_type="qwen3")
    assert found
    assert found.poolings == ("cls", "mean")


def test_by_modules(tmp_path: Path) -> None:
    kinds = (("Transformer", ""), ("Pooling", "p"), ("Dense", "d"), ("Dense", "e"), ("LayerNorm", "l"))
    write(
        tmp_path / "modules.json", [{"type": f"sentence_transformers.models.{kind}", "path": at} for kind, at in kinds]
    )
    write(tmp_path / "p" / "config.json", {"pooling_mode_cls_token": True})
    write(tmp_path / "sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": True})
    found = look(tmp_path, model_type="llama")
    assert found == Embedder(
        encoder=False,
        poolings=("cls",),
        guessed=False,
        projections=(tmp_path / "d", tmp_path / "e"),
        longest=256,
        lower_case=True,
        unknown=("LayerNorm",),
    )


@pytest.mark.parametrize(("pooling", "name"), [(1, "mean"), (2, "cls"), (3, "lasttoken"), (0, None), (None, None)])
def test_by_a_gguf_header(tmp_path: Path, pooling: int | None, name: str | None) -> None:
    header = {"metadata": {"general.architecture": "qwen3", "qwen3.pooling_type": pooling}}
    found = look(tmp_path, header, model_type="qwen3")
    assert (found.poolings[0] if found else None) == name


@pytest.mark.parametrize("content", ["{", "[]", "[3]", '{"a": 1}', '[{"type": "models.Transformer"}]', '"x"'])
def test_odd_files_say_nothing(tmp_path: Path, content: str) -> None:
    write(tmp_path / "modules.json", content)
    write(tmp_path / "sentence_bert_config.json", content)
    assert look(tmp_path, model_type="llama") is None
    found = look(tmp_path, model_type="bert")
    assert found
    assert (found.longest, found.unknown) == (0, ())
