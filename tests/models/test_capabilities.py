import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlx_ollama.models.capabilities import capabilities, family, uses_harmony
from mlx_ollama.models.names import Reference
from mlx_ollama.models.store import StoredModel
from mlx_ollama.models.weights import Weights
from tests.gotemplate.test_prompt import TOOLTHINK

Stored = Callable[..., StoredModel]


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """A model whose directory has a chat template, a tokenizer with these tokens, and an architecture."""

    def make(
        template: str = "", jinja: str = "", tokens: tuple[str, ...] = (), model_type: str = "llama"
    ) -> StoredModel:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
        (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"content": t} for t in tokens]}))
        if jinja:
            (tmp_path / "chat_template.jinja").write_text(jinja)
        name = Reference.parse("m").name
        return StoredModel(name, "", 0, 0, Weights.at(tmp_path, ""), (), {}, template, "", {}, (), ())

    return make


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ .Prompt }}", ()),
        (TOOLTHINK, ("tools", "thinking")),
        ("<PRE>{{ .Prompt }}<SUF>{{ .Suffix }}<MID>", ("insert",)),
        ("{{ .Tools }}{{ .Suffix }}{{ .Prompt }}", ("tools", "insert")),
        ("{{ .Prompt", ()),
    ],
)
def test_a_go_template_tells(stored: Stored, template: str, expected: tuple[str, ...]) -> None:
    assert capabilities(stored(template, jinja="{{ tools }}<think></think>")) == ("completion", *expected)


def test_a_go_template_that_is_too_long_to_be_parsed_tells_nothing(stored: Stored) -> None:
    model = stored("{{ .Tools }}" * (1 << 17))
    begun = time.process_time()
    assert capabilities(model) == ("completion",)
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    ("jinja", "tokens", "expected"),
    [
        ("", (), ()),
        ("{{ messages }}", ("<think>", "</think>"), ()),
        ("{{ tools }}", (), ("tools",)),
        ("{{ message.tool_calls }}", (), ("tools",)),
        ("<think>{{ x }}</think>", (), ("thinking",)),
        ("split('</think>')", (), ()),
        ("split('</think>')", ("<think>", "</think>"), ("thinking",)),
        ("{{ tools }}[THINK][/THINK]", (), ("tools", "thinking")),
        ("{{ tools }}<|start|><|channel|><|message|>", (), ("tools", "thinking")),
    ],
)
def test_a_chat_template_tells(stored: Stored, jinja: str, tokens: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert capabilities(stored(jinja=jinja, tokens=tokens)) == ("completion", *expected)


def test_gpt_oss_always_thinks(stored: Stored) -> None:
    model = stored("{{ .Tools }}{{ .Prompt }}", model_type="gpt_oss")
    assert capabilities(model) == ("completion", "tools", "thinking")
    assert not uses_harmony(model)
    assert family(model) == "gpt_oss"


def test_a_changed_template_is_read_again(stored: Stored, tmp_path: Path) -> None:
    model = stored(jinja="{{ tools }}")
    assert "thinking" not in capabilities(model)
    (tmp_path / "chat_template.jinja").write_text("{{ tools }}<think></think> and longer")
    assert "thinking" in capabilities(model)


def test_a_directory_that_is_gone_still_completes(stored: Stored, tmp_path: Path) -> None:
    gone = replace(stored(), weights=Weights.at(tmp_path / "gone", ""))
    assert capabilities(gone) == ("completion",)
    assert family(gone) == ""


def test_the_tokenizer_is_read_once(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = Path.open

    def noted(self: Path, *arguments: Any, **options: Any) -> Any:
        opened.append(self.name)
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", noted)
    model = stored(jinja="split('</think>')", tokens=("<think>", "</think>", "[SUFFIX]", "[PREFIX]"))
    for _ in range(2):
        assert capabilities(model) == ("completion", "insert", "thinking")
    assert opened.count("tokenizer.json") - 1 == 1, "written once, read once"
