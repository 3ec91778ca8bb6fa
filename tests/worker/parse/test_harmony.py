"""The gpt-oss family: messages on channels."""

import time
from functools import partial

import pytest

from mlx_ollama.protocol import Prompt
from mlx_ollama.types import Message, ToolCall
from mlx_ollama.worker.legal_names import LegalNames
from mlx_ollama.worker.parse.choice import make_parser
from mlx_ollama.worker.parse.parser import Parser
from mlx_ollama.worker.prompt import render
from tests.worker.parse.feeding import TOOLS, plain, understood
from tests.worker.parse.tokenizers import tokenizer_of

START = "<|start|>user<|message|>hi<|end|><|start|>assistant"
CALL = '<|channel|>commentary to=functions.get_w <|constrain|>json<|message|>{"city":"Rome"}'
TIME = "<|start|>assistant to=functions.what_time<|channel|>commentary json<|message|>{}<|call|>"
ROME = ("get_w", '{"city": "Rome"}')


def _prompt(think_level: str = "medium", *messages: Message) -> Prompt:
    return Prompt(
        "chat",
        64,
        0,
        shift=True,
        messages=messages or (Message("user", "hi"),),
        tools=TOOLS,
        think=bool(think_level),
        think_level=think_level,
        think_set=True,
    )


def _parser(rendered: str = START) -> Parser:
    return make_parser(_prompt(), tokenizer_of("gpt-oss"), rendered)


@pytest.mark.parametrize(
    ("text", "answer", "thinking", "calls"),
    [
        (
            "<|channel|>analysis<|message|>hm 😀<|end|><|start|>assistant<|channel|>final<|message|>Hi <b>!<|return|>",
            "Hi <b>!",
            "hm 😀",
            [],
        ),
        ("<|channel|>final<|message|>Hi", "Hi", "", []),
        (f"<|channel|>analysis<|message|>hm<|end|><|start|>assistant{CALL}", "", "hm", [ROME]),
        (f"{CALL}<|call|>", "", "", [ROME]),
        (
            f"<|channel|>commentary<|message|>Wait.<|end|>{TIME}<|start|>assistant{CALL}<|call|>",
            "Wait.",
            "",
            [("what-time", "{}"), ROME],
        ),
        # no header at all, text behind a message, cut off in a header and in a message
        ("Hello <|there", "Hello <|there", "", []),
        ("to be", "to be", "", []),
        ("final words", "final words", "", []),
        ("<|channel|>final<|message|>a<|end|> b", "a b", "", []),
        ("<|channel|>analy", "", "", []),
        ("<|channel|>analysis<|message|>h<|en", "", "h<|en", []),
        ("", "", "", []),
    ],
)
def test_channels(text: str, answer: str, thinking: str, calls: list[tuple[str, str]]) -> None:
    assert plain(understood(_parser, text)) == (answer, thinking, calls)


@pytest.mark.parametrize(
    "text",
    [
        "<|channel|>commentary to=functions.other <|constrain|>json<|message|>{}<|call|>",
        '<|channel|>commentary to=functions.get_w<|message|>{"city":"Ro',
        "<|channel|>commentary to=functions.get_w<|message|>city<|end|>",
        "<|channel|>commentary to=functions.get_w<|message|>{}<|call|>",
        "<|channel|>commentary to=functions.ge",
    ],
)
def test_what_is_no_call_comes_back(text: str) -> None:
    assert plain(understood(_parser, text)) == (text, "", [])


def test_a_message_that_the_prompt_has_begun() -> None:
    begun = partial(_parser, START + "<|channel|>final<|message|>So <|")
    assert plain(understood(begun, "far.<|return|>")) == ("far.", "", [])


def test_names_are_made_legal_and_restored() -> None:
    names = LegalNames(["get.w", "get_w", "get-w", "2nd", "ok", "über"])
    legal = [
        tool["function"]["name"] for tool in names.in_tools([{"function": {"name": n}} for n in ("get.w", "get_w")])
    ]
    assert legal == ["get_w", "get_w_2"]
    assert [names.restored(name) for name in ("get_w", "get_w_2", "get_w_3", "_2nd", "ok", "_ber", "other")] == [
        "get.w",
        "get_w",
        "get-w",
        "2nd",
        "ok",
        "über",
        "other",
    ]


def test_many_alike_names_take_no_longer_than_many_others() -> None:
    began = time.process_time()
    alike = [f"a{chr(0x100 + at)}" for at in range(10_000)]
    names = LegalNames([*alike, "a_", "a__2", "a_"])
    assert time.process_time() - began < 1
    assert [names.restored(legal) for legal in ("a_", "a__10000", "a__10001", "a__2_2")] == [
        alike[0],
        alike[-1],
        "a_",
        "a__2",
    ]


def test_the_prompt_has_legal_names_and_a_level() -> None:
    call = Message("assistant", "", tool_calls=(ToolCall("what-time", {}),))
    answer = Message("tool", "12", tool_name="what-time")
    text = render(_prompt("high", Message("user", "hi"), call, answer), tokenizer_of("gpt-oss"))
    assert "what_time" in text
    assert "what-time" not in text
    assert "Reasoning: high" in text
    assert "Reasoning: low" in render(_prompt(""), tokenizer_of("gpt-oss"))


def test_a_go_template_of_the_family_has_channels_too() -> None:
    template = "{{ range .Messages }}<|start|>{{ .Role }}<|message|>{{ .Content }}<|end|>{{ end }}<|start|>assistant"
    prompt = Prompt("chat", 64, 0, shift=True, template=template + "{{/* <|channel|> */}}", tools=TOOLS)
    parser = partial(make_parser, prompt, tokenizer_of("plain"), START)
    assert plain(understood(parser, f"{CALL}<|call|>")) == ("", "", [ROME])
