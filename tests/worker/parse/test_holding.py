"""Text is held back only as far as it may be the start of a tag."""

import time

import pytest

from mlx_ollama.protocol import Prompt
from mlx_ollama.worker.parse.choice import make_parser
from mlx_ollama.worker.parse.parser import Parser
from mlx_ollama.worker.parse.tags import TagSearch, leading
from tests.worker.parse.feeding import TOOLS
from tests.worker.parse.tokenizers import tokenizer_of

FAMILIES = [
    "qwen3",
    "qwen3-coder",
    "glm",
    "deepseek-v3",
    "llama3",
    "mistral",
    "phi4",
    "functiongemma",
    "kimi",
    "gemma4",
]


def _parser(family: str, *, think: bool = False) -> Parser:
    prompt = Prompt("chat", 64, 0, shift=True, tools=TOOLS, think=think, think_set=True)
    return make_parser(prompt, tokenizer_of(family), "<|start|>assistant" if family == "gpt-oss" else "")


def _said(parser: Parser, text: str) -> str:
    parsed = parser.add(text)
    return parsed.text if parsed else ""


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("think", [True, False])
def test_words_are_never_held(family: str, think: bool) -> None:
    parser = _parser(family, think=think)
    for word in ["Hello", ",", " world", "!", " 3", " >", " 2", " wörld", "😀", " = x;", ")", "}", "]"]:
        assert _said(parser, word) == word


@pytest.mark.parametrize(
    ("family", "held", "next_", "released"),
    [
        ("qwen3", "<", "b>", "<b>"),
        ("qwen3", "<tool", "s>", "<tools>"),
        ("qwen3", " ", "x", " x"),
        ("qwen3", "\n\n<tool_call", "er>", "\n\n<tool_caller>"),
        ("qwen3", "<tool_call>", "x", "<tool_call>x"),
        ("qwen3-coder", "<func", "<", "<func"),
        ("mistral", "[TOOL", "S]", "[TOOLS]"),
        ("llama3", "<|python", "|>", "<|python|>"),
        ("gemma4", "<|to", "ne", "<|tone"),
    ],
)
def test_what_may_be_a_tag_is_held_until_it_is_none(family: str, held: str, next_: str, released: str) -> None:
    parser = _parser(family)
    assert _said(parser, "So") == "So"
    assert parser.add(held) is None
    assert _said(parser, next_) == released


def test_json_that_is_no_call_is_released_at_its_first_key() -> None:
    parser = _parser("llama3")
    assert [_said(parser, piece) for piece in ("{", '"', "ci", 'ty": "Rome')] == ["", "", '{"ci', 'ty": "Rome']


def test_thinking_flows() -> None:
    parser = _parser("qwen3", think=True)
    pieces = [parser.add(piece) for piece in ("<think>", "\n", "a", " b", " <", "c", "</", "think>", "\n", "d")]
    assert [(piece.thinking, piece.text) if piece else None for piece in pieces] == [
        None,
        None,
        ("a", ""),
        (" b", ""),
        None,
        (" <c", ""),
        None,
        None,
        None,
        ("", "d"),
    ]


def test_channels_flow() -> None:
    parser = _parser("gpt-oss")
    assert parser.add("<|channel|>final") is None
    assert _said(parser, "<|message|>Hel") == "Hel"
    assert _said(parser, "lo <") == "lo "
    assert _said(parser, "b") == "<b"


def test_leading_tags() -> None:
    assert leading("<a>x", ("<a>", "<b>")) == "<a>"
    assert leading("<", ("<a>",)) == ""
    assert leading("", ("<a>",)) == ""
    assert leading("x", ("<a>",)) is None
    assert leading("x", ()) is None


def test_the_first_and_longest_tag_is_found() -> None:
    found = TagSearch(("<a>", "<a>b", "c"), trims=True).add("x  <a>bc")
    assert (found.before, found.gap, found.tag, found.rest) == ("x", "  ", "<a>b", "c")


@pytest.mark.parametrize("family", FAMILIES)
def test_odd_answers_take_no_longer_than_long_ones(family: str) -> None:
    began = time.process_time()
    for odd in (
        "<tool_call>",
        "<tool_call>{",
        "[TOOL_CALLS]",
        "<",
        " ",
        "{",
        '{"name": "',
        "<|tool_call>",
        "[{",
        "<think>",
    ):
        parser = _parser(family, think=True)
        text = odd * (20_000 // len(odd))
        for at in range(0, len(text), 5):
            parser.add(text[at : at + 5])
        parser.add(text + "</tool_call>")
        parser.flush()
    assert time.process_time() - began < 20
