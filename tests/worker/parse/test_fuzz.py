"""Answers that nobody would write: no parser fails, cuts never matter, and without calls and thinking all is text."""

import random
from functools import partial

import pytest

from mlx_ollama.protocol import Prompt
from mlx_ollama.worker.parse.choice import make_parser
from tests.gotemplate.test_prompt import TOOLTHINK
from tests.worker.parse.feeding import TOOLS, fed, plain
from tests.worker.parse.tokenizers import FAMILIES, tokenizer_of

FRAGMENTS = [
    *(
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<function=",
        "get_w",
        ">",
        "</function>",
        "<parameter=city>",
    ),
    *("</parameter>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<|tool_call|>", "<|/tool_call|>", "<arg_key>"),
    *("</arg_key>", "<arg_value>", "</arg_value>", "<start_function_call>", "<end_function_call>", "call:", "<escape>"),
    *("<|tool_calls_section_begin|>", "<|tool_call_begin|>", "functions.get_w:0", "<|tool_call_argument_begin|>"),
    *("<|tool_call_end|>", "<|tool_calls_section_end|>", "<|channel|>", "<|message|>", "<|end|>", "<|start|>", "final"),
    *("analysis", "commentary", " to=functions.get_w", "assistant", "<|channel>thought", "<channel|>", "<|tool_call>"),
    *(
        "<tool_call|>",
        "<|START_ACTION|>",
        "<|END_ACTION|>",
        "functools",
        "[",
        "]",
        "{",
        "}",
        '"',
        ":",
        ",",
        "\\",
        "\n",
        " ",
    ),
    *(
        '{"name": "get_w", "arguments": {"city": "Rome"}}',
        '{"city": "Rome"}',
        "city",
        "Rome",
        "5",
        "😀",
        "word ",
        "<",
        "</",
    ),
]
ROUNDS = 200


@pytest.mark.parametrize("family", [*FAMILIES, "go"])
def test_any_answer_in_any_pieces(family: str) -> None:
    chance = random.Random(family)
    tokenizer = tokenizer_of("plain" if family == "go" else family)
    template = TOOLTHINK if family == "go" else None
    for round_ in range(ROUNDS):
        think = round_ % 2 == 0
        prompt = Prompt("chat", 64, 0, shift=True, template=template, tools=TOOLS, think=think, think_set=True)
        rendered = "<|start|>assistant" if family == "gpt-oss" else chance.choice(["", "<think>\n"])
        make = partial(make_parser, prompt, tokenizer, rendered)
        text = "".join(chance.choices(FRAGMENTS, k=chance.randint(1, 14)))
        whole = plain(fed(make(), [text]))
        assert plain(fed(make(), list(text))) == whole, text
        for _ in range(3):
            at = sorted(chance.choices(range(len(text) + 1), k=3))
            pieces = [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)]
            assert plain(fed(make(), pieces)) == whole, pieces
        said, thinking, calls = whole
        if not think and not calls and family not in ("gpt-oss", "llama3", "kimi-k3", "cohere"):
            assert (said, thinking) == (text, "")
