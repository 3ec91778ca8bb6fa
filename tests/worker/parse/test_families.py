"""What each family writes (`samples.jsonl`), in any cut: nothing is lost, and what is no call is text."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mlx_ollama.protocol import Prompt
from mlx_ollama.types import Message
from mlx_ollama.worker.parse.choice import make_parser
from mlx_ollama.worker.parse.parser import Gate, Parser
from tests.worker.parse.feeding import TOOLS, plain, understood
from tests.worker.parse.tokenizers import tokenizer_of

SAMPLES = [json.loads(line) for line in Path(__file__).with_name("samples.jsonl").read_text().splitlines()]
HAVE_EMPTY_TAGS = ("llama3", "cohere", "kimi-k3")


def _prompt(*, think: bool = True, tools: bool = True) -> Prompt:
    offered = TOOLS if tools else ()
    return Prompt("chat", 64, 0, shift=True, tools=offered, think=think, think_set=True)


def _parser(family: str, rendered: str = "", *, think: bool = True, tools: bool = True) -> Parser:
    return make_parser(_prompt(think=think, tools=tools), tokenizer_of(family), rendered)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample['family']}: {sample['text'][:40]}")
def test_samples(sample: dict[str, Any]) -> None:
    calls = [(name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in sample.get("calls", ())]
    parsed = understood(partial(_parser, sample["family"]), sample["text"])
    assert plain(parsed) == (sample["answer"], sample.get("thinking", ""), calls)


@pytest.mark.parametrize("family", sorted({sample["family"] for sample in SAMPLES} - set(HAVE_EMPTY_TAGS)))
def test_without_tools_nothing_is_a_call(family: str) -> None:
    for text in [sample["text"] for sample in SAMPLES if sample["family"] == family]:
        assert plain(understood(partial(_parser, family, tools=False, think=False), text)) == (text, "", [])


@pytest.mark.parametrize(
    ("text", "answer", "thinking"),
    [
        ("reason</think>\n\nans", "ans", "reason"),
        ("reason \n</think>ans ", "ans ", "reason"),
        ("\n<think>\nreason</think>ans", "ans", "reason"),
        ("reason", "", "reason"),
        ("reason </thi", "", "reason </thi"),
        ("</think>ans", "ans", ""),
        ("a < b </b> </think> c </think>", "c </think>", "a < b </b>"),
    ],
)
def test_the_prompt_may_have_opened_the_thinking(text: str, answer: str, thinking: str) -> None:
    for family in ("qwen3.5", "deepseek-r1", "qwen3"):
        parsed = understood(partial(_parser, family, "<|im_start|>assistant\n<think>\n"), text)
        assert plain(parsed) == (answer, thinking, [])


@pytest.mark.parametrize(
    ("text", "answer", "thinking"),
    [
        (" \n<think>\nso it </is>\n</think>\n Hi", "Hi", "so it </is>"),
        ("<think>so", "", "so"),
        ("<thi", "<thi", ""),
        ("<b>Hi</b> <think>no</think>", "<b>Hi</b> <think>no</think>", ""),
        (" Hi ", " Hi ", ""),
        ("<think></think>", "", ""),
    ],
)
def test_thinking_between_tags(text: str, answer: str, thinking: str) -> None:
    assert plain(understood(partial(_parser, "qwen3"), text)) == (answer, thinking, [])


def test_where_thinking_is_off_its_tags_are_text() -> None:
    text = "reason</think>\n\n<think>a</think>ans"
    for family in ("qwen3", "qwen3.5", "deepseek-r1"):
        assert plain(understood(partial(_parser, family, "<think>\n", think=False), text)) == (text, "", [])


@pytest.mark.parametrize(
    ("family", "rendered", "gate"),
    [
        ("qwen3", "", Gate("</think>", opening="<think>")),
        ("qwen3.5", "<think>\n", Gate("</think>")),
        ("magistral", "", Gate("[/THINK]", opening="[THINK]")),
        ("gemma4", "", Gate("<channel|>", opening="<|channel>thought")),
        (
            "cohere",
            "",
            Gate("<|END_THINKING|>", opening="<|START_THINKING|>", bridge="<|START_RESPONSE|>"),
        ),
        ("cohere-text", "<|START_THINKING|>", Gate("<|END_THINKING|>", bridge="<|START_TEXT|>")),
        (
            "kimi-k3",
            "",
            Gate("<|close|>think<|sep|>", opening="<|open|>think<|sep|>", bridge="<|open|>response<|sep|>"),
        ),
        ("gpt-oss", "<|start|>assistant", Gate("<|channel|>final", bridge="<|message|>")),
        ("gpt-oss", "<|start|>assistant<|channel|>final<|message|>So", None),
        ("plain", "", None),
    ],
)
def test_a_parser_tells_where_the_answer_begins(family: str, rendered: str, gate: Gate | None) -> None:
    assert _parser(family, rendered).gate == gate


def test_an_answer_that_the_caller_began_is_past_its_thinking() -> None:
    begun = (Message("user", "hi"), Message("assistant", "Sure"))
    parser = make_parser(replace(_prompt(), messages=begun), tokenizer_of("qwen3"), "Sure")
    assert parser.gate is None


def test_a_raw_prompt_has_a_raw_answer() -> None:
    prompt = Prompt("raw", 64, 0, shift=True, text="x<think>", think=True)
    parser = make_parser(prompt, tokenizer_of("qwen3"), "x<think>")
    assert plain(understood(lambda: parser, "a</think>"))[0].startswith("a</think>")
