import json
from pathlib import Path
from typing import Any

import pytest

from mlx_ollama.errors import InvalidRequest
from mlx_ollama.worker.texts import TextTokenizer
from tests.support.embedders import write_word_tokenizer
from tests.support.tiny import write_tokenizer

BA, BE = 4, 5


def test_marks_are_kept_when_a_text_is_cut(tmp_path: Path) -> None:
    write_word_tokenizer(tmp_path)
    tokenizer = TextTokenizer.read(tmp_path, lower_case=False)
    texts = ["ba", "", "ba be ba be ba be ba be ba be"]
    ids = tokenizer.encode(texts, longest=64, truncate=False)
    assert ids == [[2, BA, 3], [2, 3], [2, *[BA, BE] * 5, 3]], "what the file says of cutting and filling is not done"
    assert tokenizer.encode(texts, longest=5, truncate=True)[2] == [2, BA, BE, BA, 3]
    with pytest.raises(InvalidRequest, match="the input length exceeds the context length"):
        tokenizer.encode(texts, longest=11, truncate=False)
    with pytest.raises(InvalidRequest, match="input after truncation exceeds maximum context length"):
        tokenizer.encode(texts, longest=2, truncate=True)


@pytest.mark.parametrize("lower_case", [True, False])
def test_of_a_very_long_text_only_the_front_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lower_case: bool
) -> None:
    write_word_tokenizer(tmp_path)
    tokenizer = TextTokenizer.read(tmp_path, lower_case=lower_case)
    read: list[int] = []
    encodings = TextTokenizer._encodings

    def noted(self: TextTokenizer, texts: list[str]) -> Any:
        read.extend(map(len, texts))
        return encodings(self, texts)

    monkeypatch.setattr(TextTokenizer, "_encodings", noted)
    assert tokenizer.encode(["ba " * 100_000, "be"], longest=5, truncate=True) == [[2, BA, BA, BA, 3], [2, BE, 3]]
    with pytest.raises(InvalidRequest, match="the input length exceeds the context length"):
        tokenizer.encode(["ba " * 100_000], longest=5, truncate=False)
    assert read == [64 * 5, 2, 64 * 5]
    spaced = f"ba {' ' * 1000}be"
    assert tokenizer.encode([spaced, "ba"], longest=5, truncate=False) == [[2, BA, BE, 3], [2, BA, 3]]
    assert read[3:] == [64 * 5, 2, len(spaced)]


def test_a_vocabulary_without_a_tokenizer_file(tmp_path: Path) -> None:
    write_word_tokenizer(tmp_path)
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=lambda word: int(vocabulary[word]))))
    tokenizer = TextTokenizer.read(tmp_path, lower_case=False)
    assert tokenizer.encode(["BA bebe"], longest=9, truncate=False) == [[2, BA, BE, vocabulary["##be"], 3]]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [[0], [83]]),
        ({"add_eos_token": True}, [[2], [83, 2]]),
        ({"add_bos_token": True, "add_eos_token": True}, [[1, 2], [1, 83, 2]]),
        ({"add_bos_token": False, "add_eos_token": None}, [[0], [83]]),
    ],
)
def test_marks_that_only_the_settings_name(tmp_path: Path, settings: dict[str, Any], expected: list[list[int]]) -> None:
    write_tokenizer(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    tokens = {"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>"}
    file.write_text(json.dumps({**tokens, **settings}))
    empty, word = TextTokenizer.read(tmp_path, lower_case=True).encode(["", "P"], longest=9, truncate=True)
    marks = [token for token in (1, 2) if token in expected[1]]
    assert [token for token in empty if token in (1, 2)] == marks
    assert [token for token in word if token in (1, 2)] == marks
    assert empty, "a model cannot start from nothing"
    assert len(word) == len(marks) + 1
