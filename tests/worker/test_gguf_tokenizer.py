"""Tokenizers from metadata give the ids that the libraries which trained them give."""

import pytest

from mlx_ollama.worker.gguf_tokenizer import build_tokenizer, end_token_ids, tokenizer_config
from mlx_ollama.worker.pretokenizers import PRE_TOKENIZERS
from tests.worker.gguf_files import bpe_metadata, bpe_tokenizer, spm_metadata, spm_processor

TEXTS = [
    "What is the capital of France?",
    " leading and  double   spaces\n\n\nand\tlines \n",
    "DON'T, won't: x1234567y 3.14 (a+b)==c; ünïcödé 東京タワー 🙂👍🏽 \u0661\u0662",
    "",
]


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_byte_level_tokens_equal_the_original(pre: str) -> None:
    tokenizer = build_tokenizer(bpe_metadata(pre) | {"tokenizer.ggml.add_bos_token": False})
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        if not PRE_TOKENIZERS[pre].whole_words:
            assert ids == bpe_tokenizer(pre).encode(text).ids
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("gpt-2", ["It", "'s", " 12345", " =>", "\n\n ", " DON", "'", "T"]),
        ("smollm", ["It", "'s", " ", "1", "2", "3", "4", "5", " =>", "\n\n ", " DON", "'", "T"]),
        ("llama-bpe", ["It", "'s", " ", "123", "45", " =>\n\n", " ", " DON", "'T"]),
        ("qwen2", ["It", "'s", " ", "1", "2", "3", "4", "5", " =>\n\n", " ", " DON", "'T"]),
        ("tekken", ["It", "'s", " ", "1", "2", "3", "4", "5", " =>\n\n", " ", " DON", "'T"]),
        ("gpt-4o", ["It's", " ", "123", "45", " =>\n\n", " ", " DON'T"]),
        ("seed-coder", ["It", "'s", " ", "1", "2", "3", "4", "5", " =>", "\n\n", " ", " DON", "'T"]),
        ("deepseek-v3", ["It", "'s", " ", "123", "45", " =>\n\n", " ", " DON", "'T"]),
        ("deepseek-llm", ["It", "'", "s", " ", "12345", " =>", "\n", "\n", " ", " DON", "'", "T"]),
        (
            "deepseek-coder",
            ["It", "'", "s", " ", "1", "2", "3", "4", "5", " =>", "\n", "\n", " ", " DON", "'", "T"],
        ),
    ],
)
def test_words(pre: str, words: list[str]) -> None:
    text = "It's 12345 =>\n\n  DON'T"
    pieces = PRE_TOKENIZERS[pre].build().pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in pieces] == words


def test_whole_words_are_not_merged() -> None:
    metadata = bpe_metadata("llama-bpe")
    metadata["tokenizer.ggml.tokens"][-1] = "zqzq"
    metadata["tokenizer.ggml.token_type"][-1] = 1
    assert build_tokenizer(metadata).encode("zqzq", add_special_tokens=False).tokens == ["zqzq"]
    assert len(build_tokenizer(metadata | {"tokenizer.ggml.pre": "smollm"}).encode("zqzq").ids) > 1


def test_control_and_user_defined_tokens() -> None:
    tokenizer = build_tokenizer(bpe_metadata("smollm"))
    encoding = tokenizer.encode("<|im_start|>a<tool call><|im_end|>")
    assert encoding.tokens == ["<|im_start|>", "a", "<tool call>", "<|im_end|>"]
    assert tokenizer.decode(encoding.ids) == "a<tool call>"


@pytest.mark.parametrize("space_prefix", [True, False])
def test_sentencepiece_tokens_equal_the_original(space_prefix: bool) -> None:
    metadata = spm_metadata(space_prefix=space_prefix)
    tokenizer = build_tokenizer(metadata)
    original = spm_processor(space_prefix=space_prefix)
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == original.encode(text)
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode("x").ids[0] == 1  # SentencePiece vocabularies add the first token unless told not to


def test_runs_of_blanks_that_are_tokens() -> None:
    """Gemma has them, and tags of HTML; a run of spaces is looked for after they were made visible, the rest before."""
    symbols = (*("\u2581" * n for n in range(2, 8)), *("\n" * n for n in range(1, 6)), "<table>")
    tokenizer = build_tokenizer(spm_metadata(space_prefix=False, symbols=symbols))
    original = spm_processor(space_prefix=False, symbols=symbols)
    for text in [
        "a  b",
        "a" + " " * 9 + "c",
        "x\n\ny" + "\n" * 7,
        "def f():\n    return x\n\n        y",
        "<table> x  ",
    ]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == original.encode(text)
        assert tokenizer.decode(ids) == text


def test_added_bos_and_eos() -> None:
    def ids(pre: str, **flags: bool) -> list[int]:
        extra = {f"tokenizer.ggml.{key}": value for key, value in flags.items()}
        return list(build_tokenizer(bpe_metadata(pre) | extra).encode("").ids)

    assert ids("smollm") == []
    assert ids("smollm", add_bos_token=True) == [1]
    assert ids("smollm", add_bos_token=True, add_eos_token=True) == [1, 2]
    assert ids("llama-bpe") == [1]
    assert ids("llama-bpe", add_bos_token=False) == []
    none = {"tokenizer.ggml.bos_token_id": 2**32 - 1, "tokenizer.ggml.add_bos_token": True}
    assert build_tokenizer(bpe_metadata("smollm") | none).encode("").ids == []


def test_tokenizer_config() -> None:
    extra = {"tokenizer.chat_template": "{{ messages }}", "general.architecture": "qwen2", "qwen2.context_length": 256}
    assert tokenizer_config(bpe_metadata("smollm") | extra) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 256,
        "chat_template": "{{ messages }}",
    }


def test_tokens_that_end_a_turn() -> None:
    metadata = bpe_metadata("smollm")
    assert end_token_ids(metadata) == [2, 0]
    assert end_token_ids(metadata | {"tokenizer.ggml.eot_token_id": 5}) == [2, 5, 0]
    assert end_token_ids(metadata | {"tokenizer.ggml.eos_token_ids": [2, 7]}) == [2, 7, 0]
    assert end_token_ids(metadata | {"tokenizer.ggml.token_type": [1] * 1000}) == [2]
