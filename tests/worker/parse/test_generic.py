"""Answers to prompts by Go templates."""

import json
import time
from functools import partial
from pathlib import Path

import pytest

from mlx_ollama.gotemplate import Template
from mlx_ollama.protocol import Prompt
from mlx_ollama.worker.parse import choice
from mlx_ollama.worker.parse.choice import make_parser
from mlx_ollama.worker.parse.generic import block_of
from mlx_ollama.worker.parse.parser import Gate, Parsed, Parser
from tests.gotemplate.test_prompt import TOOLTHINK
from tests.worker.parse.feeding import TOOLS, plain, understood
from tests.worker.parse.tokenizers import tokenizer_of

TEMPLATES = Path(__file__).parents[2] / "gotemplate" / "templates"
ROME = ("get_w", '{"city": "Rome"}')
CALL = '{"name": "get_w", "arguments": {"city": "Rome"}}'


def _parser(template: str, rendered: str = "", *, think: bool = True, tools: bool = True) -> Parser:
    offered = TOOLS if tools else ()
    prompt = Prompt("chat", 64, 0, shift=True, template=template, tools=offered, think=think, think_set=True)
    return make_parser(prompt, tokenizer_of("plain"), rendered)


@pytest.mark.parametrize(
    ("name", "start", "ends"),
    [
        ("qwen3", "<tool_call>", ("</tool_call>",)),
        ("qwen2.5", "<tool_call>", ("</tool_call>",)),
        ("llama3-instruct", "", ()),
        ("mistral-instruct", "[TOOL_CALLS]", ()),
        ("granite", "<|tool_call|>", ("<|end_of_text|>",)),
        ("command-r", "Action: ```json", ("```",)),
        ("alpaca", "", ()),
    ],
)
def test_tags_are_those_of_the_template(name: str, start: str, ends: tuple[str, ...]) -> None:
    block = block_of(Template.parse((TEMPLATES / f"{name}.gotmpl").read_text()))
    assert (block.starts, block.ends, block.leads) == ((start,) if start else (), ends, not start)


@pytest.mark.parametrize(
    ("text", "answer", "thinking", "calls"),
    [
        (f"<think>hm</think>Sure <tool_call>{CALL}</tool_call>", "Sure ", "hm", [ROME]),
        (f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>{CALL}</tool_call>", "", "", [ROME, ROME]),
        (f"<tool_call>{CALL}\n{CALL}</tool_call>", "", "", [ROME, ROME]),
        (f"<tool_call>[{CALL}, {CALL}]</tool_call>", "", "", [ROME, ROME]),
        ('<tool_call>get_w {"city": "Rome"}</tool_call>', "", "", [ROME]),
        (f"a <tool_call>{CALL}</tool_call> b", "a  b", "", [ROME]),
        ("no tool here", "no tool here", "", []),
        ('<tool_call>{"name":"unknown_fn","arguments":{}}</tool_call>', None, "", []),
        ('<tool_call>{"name":"get_w","arguments":{"city":"Ro', None, "", []),
        ("the tag <tool_call> and </tool_call>", None, "", []),
        ("<tool_call>get_w(), then?</tool_call>", None, "", []),
        (" <think> a \n</think> b", "b", "a \n", []),
        ("<think> a", "", "a", []),
        ("a <think>b</think>", None, "", []),
    ],
)
def test_answers(text: str, answer: str | None, thinking: str, calls: list[tuple[str, str]]) -> None:
    expected = (text if answer is None else answer, thinking, calls)
    assert plain(understood(partial(_parser, TOOLTHINK), text)) == expected


@pytest.mark.parametrize(
    ("text", "answer", "calls"),
    [
        (CALL, "", [ROME]),
        (f"{CALL}\n{CALL}", "", [ROME, ROME]),
        (f"So: {CALL}", f"So: {CALL}", []),
        ('{"answer": 4}', '{"answer": 4}', []),
        (f"{CALL} That is it.", "That is it.", [ROME]),
    ],
)
def test_without_a_tag_only_a_leading_call_counts(text: str, answer: str, calls: list[tuple[str, str]]) -> None:
    template = (TEMPLATES / "llama3-instruct.gotmpl").read_text()
    assert plain(understood(partial(_parser, template), text)) == (answer, "", calls)


@pytest.mark.parametrize(
    "text",
    [f"[TOOL_CALLS] [{CALL}]", f"[TOOL_CALLS][{CALL}]", f"[TOOL_CALLS]get_w[ARGS]{json.dumps({'city': 'Rome'})}"],
)
def test_mistral(text: str) -> None:
    template = (TEMPLATES / "mistral-instruct.gotmpl").read_text()
    assert plain(understood(partial(_parser, template), text)) == ("", "", [ROME])


def test_without_thinking_its_tags_are_text() -> None:
    parser = partial(_parser, TOOLTHINK, think=False, tools=False)
    assert plain(understood(parser, "<think>a</think>b")) == ("<think>a</think>b", "", [])


def test_the_prompt_may_have_opened_the_thinking() -> None:
    parser = partial(_parser, TOOLTHINK, "<|assistant|><think>\n")
    assert plain(understood(parser, "a</think>b")) == ("b", "a", [])
    assert parser().gate == Gate("</think>")
    assert _parser(TOOLTHINK).gate == Gate("</think>", opening="<think>")


def test_text_that_is_withheld_is_told_of() -> None:
    parser = _parser(TOOLTHINK)
    assert [parser.add(piece) for piece in ("<th", "ink>\n", "a", "</think>", " ", "b", "<tool", "_call>", "{")] == [
        Parsed(),
        Parsed(),
        Parsed(thinking="a"),
        Parsed(),
        Parsed(),
        Parsed("b"),
        Parsed(),
        Parsed(),
        Parsed(),
    ]
    assert parser.flush() == Parsed("<tool_call>{")


def test_formats_that_are_no_json_are_known_by_their_tags() -> None:
    template = TOOLTHINK.replace("<tool_call>", "<tool_call><function=")
    text = "<tool_call>\n<function=get_w>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>"
    assert plain(understood(partial(_parser, template), text)) == ("", "", [ROME])


@pytest.mark.parametrize(
    ("body", "start"),
    [
        ("user assistant<|x|>assistant <c>{", "<c>"),
        ("<|im_start|>assistant<|sep|>\n<c>{", "<c>"),
        ("assistants <c>{", "assistants <c>"),
    ],
)
def test_a_call_begins_behind_the_role(body: str, start: str) -> None:
    assert block_of(Template.parse(f"{{{{ range .ToolCalls }}}}{body} {{{{ end }}}}")).starts == (start,)


def test_a_template_takes_no_longer_than_it_is_long() -> None:
    template = "{{ range .ToolCalls }}" + "assistan " * 7_000 + "{{ end }}"
    began = time.process_time()
    _parser(template)
    _parser("{{ range .ToolCalls }}" + "assistant <" * 6_000 + "{{ end }}")
    assert time.process_time() - began < 2


def test_without_tools_nobody_asks_how_calls_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "blocks_of_go", lambda template: pytest.fail("asked"))
    _parser(TOOLTHINK, tools=False)
