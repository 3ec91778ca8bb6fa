import pytest

from mlx_ollama.thinking import Thinking, speaks_harmony, tags_in, without_thoughts
from mlx_ollama.types import Message


@pytest.mark.parametrize(
    ("wanted", "can_think", "harmony", "expected"),
    [
        (None, False, False, Thinking(False, "", False)),
        (False, False, False, Thinking(False, "", True)),
        (None, True, False, Thinking(True, "medium", True)),
        (True, True, False, Thinking(True, "medium", True)),
        (False, True, False, Thinking(False, "", True)),
        ("medium", True, False, Thinking(True, "medium", True, True)),
        ("low", True, False, Thinking(True, "low", True, True)),
        ("max", True, False, Thinking(True, "max", True, True)),
        ("max", True, True, Thinking(True, "high", True, True)),
        ("high", True, True, Thinking(True, "high", True, True)),
    ],
)
def test_what_think_comes_to(wanted: bool | str | None, can_think: bool, harmony: bool, expected: Thinking) -> None:
    assert Thinking.settle(wanted, can_think=can_think, harmony=harmony) == expected


def test_tags() -> None:
    assert tags_in("a <think> b </think>") == ("<think>", "</think>")
    assert tags_in("[THINK][/THINK]") == ("[THINK]", "[/THINK]")
    assert tags_in("</think>") is None
    assert speaks_harmony("<|start|><|channel|><|message|>")
    assert not speaks_harmony("<|channel|>")


def test_thoughts_before_the_last_question_are_cut_off() -> None:
    thought = "<think>\na\nb</think>\n\nHi"
    talk = [
        Message("user", thought),
        Message("assistant", thought),
        Message("assistant", "x <think>a</think>"),
        Message("assistant", "<think>never closed"),
        Message("user", "and?"),
        Message("assistant", thought),
    ]
    kept = [message.content for message in without_thoughts(talk)]
    assert kept == [thought, "Hi", "x <think>a</think>", "<think>never closed", "and?", thought]
    assert without_thoughts([]) == []
