"""What Jinja chat templates are given."""

import time
from typing import Any

import pytest

from mlx_ollama.errors import TemplateFailed
from mlx_ollama.protocol import Prompt
from mlx_ollama.types import Message, ToolCall
from mlx_ollama.worker.jinja import render_chat
from mlx_ollama.worker.tokenizer import Tokenizer
from tests.worker.parse.feeding import GET_W

HI = Message("user", "hi")
CALL = Message("assistant", "", tool_calls=(ToolCall("get_w", {"city": "Rom"}), ToolCall("f", {}, id="call_ab12cd34")))

CHOSEN = {"think": True, "think_set": True, "think_named": True}
HARMONY = "<|start|><|channel|><|message|>"


class Hf:
    """A tokenizer that only renders, with its template in Python."""

    def __init__(self, template: str, *, fails: str = "", tail: str = "", refuses: tuple[str, ...] = ()) -> None:
        self.chat_template = template
        self.given: dict[str, Any] = {}
        self._fails, self._tail, self._refuses = fails, tail, refuses

    def apply_chat_template(self, turns: list[dict[str, Any]], **options: Any) -> str:
        self.given = {"turns": turns, **options}
        if self._fails and any(self._fails in str(turn.get("tool_calls", "")) for turn in turns):
            raise TypeError("can only concatenate str")
        if options.get("reasoning_effort") in self._refuses:
            raise ValueError("reasoning_effort must be low or high")
        return f"prompt{self._tail}"


def _render(hf: Hf, *messages: Message, **members: Any) -> str:
    prompt = Prompt("chat", 64, 0, shift=True, tools=(GET_W,), **members)
    return render_chat(Tokenizer(hf), prompt, messages or (HI,))


@pytest.mark.parametrize(
    ("template", "members", "expected"),
    [
        ("", {"think": True}, {"enable_thinking": True}),
        ("x", {"think": True}, {"enable_thinking": True, "thinking": True}),
        ("x", {}, {"enable_thinking": False, "thinking": False}),
        ("reasoning_effort", {"think": True, "think_level": "medium", "think_set": True}, {"reasoning_effort": None}),
        ("reasoning_effort", {"think_level": "medium", **CHOSEN}, {"reasoning_effort": "medium"}),
        ("reasoning_effort", {"think_level": "max", **CHOSEN}, {"reasoning_effort": "max"}),
        ("reasoning_effort" + HARMONY, {"think_level": "max", **CHOSEN}, {"reasoning_effort": "high"}),
        ("reasoning_effort" + HARMONY, {"think_level": "medium", **CHOSEN}, {"reasoning_effort": "medium"}),
        ("reasoning_effort[THINK]", {"think": True, "think_set": True}, {"reasoning_effort": "high"}),
        ("reasoning_effort[THINK]", {"think_set": True}, {"reasoning_effort": "none"}),
        ("reasoning_effort", {}, {"reasoning_effort": None}),
    ],
)
def test_think_has_the_families_names(template: str, members: dict[str, Any], expected: dict[str, Any]) -> None:
    hf = Hf(template)
    _render(hf, **members)
    assert {key: hf.given.get(key) for key in expected} == expected
    assert ("thinking" in hf.given) == bool(template)


@pytest.mark.parametrize(
    ("level", "refuses", "given"),
    [
        ("max", ("max",), "high"),
        ("max", ("max", "high"), None),
        ("medium", ("medium", "max"), None),
        ("low", ("medium", "max"), "low"),
    ],
)
def test_a_level_that_a_template_refuses_is_no_failure(level: str, refuses: tuple[str, ...], given: str | None) -> None:
    hf = Hf("reasoning_effort", refuses=refuses)
    assert _render(hf, think_level=level, **CHOSEN) == "prompt"
    assert hf.given.get("reasoning_effort") == given
    with pytest.raises(TemplateFailed, match="can only concatenate str"):
        _render(Hf("reasoning_effort", fails="city", refuses=refuses), HI, CALL, think_level=level, **CHOSEN)


def test_thinking_that_a_template_opens_regardless_is_closed_where_it_is_not_wanted() -> None:
    hf = Hf("<think></think>", tail="<think>\n")
    assert _render(hf, think_set=True) == "prompt<think>\n\n</think>\n\n"
    assert _render(hf, think_set=True, think=True) == "prompt<think>\n"
    assert _render(hf) == "prompt<think>\n"


def test_calls_and_results_have_ids() -> None:
    hf = Hf("x")
    results = [Message("tool", "1", tool_name="f"), Message("tool", "2"), Message("tool", "3", tool_call_id="z")]
    _render(hf, HI, CALL, *results)
    turns = hf.given["turns"]
    assert [call["id"] for call in turns[1]["tool_calls"]] == ["call_0", "call_ab12cd34"]
    assert [turn.get("tool_call_id") for turn in turns[2:]] == ["call_ab12cd34", "call_0", "z"]
    assert [turn.get("name") for turn in turns[2:]] == ["f", "get_w", None]
    assert turns[1]["tool_calls"][0]["function"]["arguments"] == {"city": "Rom"}


@pytest.mark.parametrize("named", ["f", ""])
def test_many_results_find_their_calls_as_fast_as_few(named: str) -> None:
    many = 20_000
    call = Message("assistant", "", tool_calls=tuple(ToolCall("f", {}, id=f"id{at}") for at in range(many)))
    results = [Message("tool", str(at), tool_name=named) for at in range(many // 2)]
    late = [Message("tool", "", tool_call_id=f"id{at}") for at in reversed(range(many))]
    hf = Hf("x")
    began = time.process_time()
    _render(hf, HI, call, *results, *late)
    assert time.process_time() - began < 2
    answered = [turn["tool_call_id"] for turn in hf.given["turns"][2:]]
    assert answered[: many // 2] == [f"id{at}" for at in range(many // 2)]
    assert answered[many // 2 :] == [f"id{at}" for at in reversed(range(many))]
    assert [turn.get("name") for turn in hf.given["turns"][-many // 2 - 1 :]] == ["f", *[None] * (many // 2)]


def test_mistral_wants_nine_letters() -> None:
    hf = Hf("[TOOL_CALLS]")
    _render(hf, HI, CALL, Message("tool", "1", tool_call_id="call_ab12cd34"))
    turns = hf.given["turns"]
    assert [call["id"] for call in turns[1]["tool_calls"]] == ["0000call0", "lab12cd34"]
    assert turns[2]["tool_call_id"] == "lab12cd34"


def test_templates_that_want_arguments_written_get_them_so() -> None:
    hf = Hf("x", fails="{'city'")
    _render(hf, HI, CALL)
    assert hf.given["turns"][1]["tool_calls"][0]["function"]["arguments"] == '{"city": "Rom"}'
    with pytest.raises(TemplateFailed, match="can only concatenate str"):
        _render(Hf("x", fails="city"), HI, CALL)
