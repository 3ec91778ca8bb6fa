"""An answer that another worker has begun: wherever it was cut, the rest is what it would have been."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlx_ollama.protocol import Finished, Prompt, Sampling, Step, Submit
from mlx_ollama.types import Delta, Message
from tests.support.greedy import GREEDY
from tests.support.parrot import write_parrot
from tests.worker.parse.feeding import GET_W
from tests.worker.parse.tokenizers import FAMILIES
from tests.worker.test_engine import Machine, submit

SEEDED: dict[str, Any] = {"temperature": 1.1, "top_k": 60, "top_p": 0.95, "min_p": 0.01, "seed": 11}
PENALISED: dict[str, Any] = {
    **SEEDED,
    "repeat_penalty": 1.3,
    "presence_penalty": 0.4,
    "frequency_penalty": 0.2,
    "repeat_last_n": 12,
}
SCHEMA = '{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string"}},"required":["a","b"]}'
CALL = '{"name": "get_w", "arguments": {"n": 3, "city": "Rome"}}'
SAID = ("<think>", "h", "m", "</think>", "Sure", " ", "<tool_call>", CALL, "</tool_call>")


def _pieces(machine: Machine, request: int) -> list[Delta]:
    steps = [frame for frame in machine.sent if isinstance(frame, Step)]
    return [delta for step in steps for own, delta in step.deltas if own == request]


def _told(pieces: list[Delta]) -> tuple[Any, ...]:
    whole = Delta.joined(pieces)
    likely = [(entry.token, round(entry.logprob, 3)) for entry in whole.logprobs]
    return whole.text, whole.thinking, whole.tool_calls, whole.tokens, likely


def _end(machine: Machine, request: int) -> tuple[Any, ...]:
    end = next(frame for frame in machine.sent if isinstance(frame, Finished) and frame.id == request)
    return end.reason, end.prompt_tokens, end.eval_tokens, end.context


def _goes_on_from_every_cut(directory: Path, opening: Submit) -> list[Delta]:
    undisturbed = Machine(directory)
    undisturbed.run([opening])
    pieces = _pieces(undisturbed, opening.id)
    cuts = range(len(pieces) + 1)
    # One fresh engine for all cuts: they are in each other's company, too.
    other = Machine(directory)
    resumed = [
        replace(opening, id=100 + cut, resume=Delta.joined(pieces[:cut]).tokens)
        for cut in cuts
        if cut % 3 == 0 or cut > len(pieces) - 3
    ]
    other.run(resumed)
    for frame in resumed:
        rest = _pieces(other, frame.id)
        assert all(piece.position >= len(frame.resume) for piece in rest)
        assert _told([*pieces[: frame.id - 100], *rest]) == _told(pieces)
        assert _end(other, frame.id) == _end(undisturbed, opening.id)
    return pieces


@pytest.mark.parametrize("changes", [{}, SEEDED, PENALISED, {"logprobs": 3}, {**SEEDED, "typical_p": 0.7}])
def test_it_goes_on_as_it_would_have(tiny_directory: Path, changes: dict[str, Any]) -> None:
    pieces = _goes_on_from_every_cut(tiny_directory, submit(1, "zuzu zize momo", **changes))
    assert len(pieces) > 10


def test_stop_strings_are_seen_across_the_cut(tiny_directory: Path) -> None:
    whole = Machine(tiny_directory)
    whole.run([submit(1, "zuzu", limit=40)])
    text = whole.text(1)
    stop = text[len(text) // 2 :][:9]
    opening = submit(1, "zuzu", limit=40, stop=(stop, "never said"))
    pieces = _goes_on_from_every_cut(tiny_directory, opening)
    assert "".join(piece.text for piece in pieces) == text[: text.index(stop)]


def test_a_format_is_followed_across_the_cut(tiny_directory: Path) -> None:
    opening = replace(submit(1, "zuzu", limit=60, **SEEDED), grammar=SCHEMA)
    pieces = _goes_on_from_every_cut(tiny_directory, opening)
    assert "".join(piece.text for piece in pieces).startswith("{")


@pytest.mark.parametrize("think", [True, False])
def test_thoughts_and_calls_are_read_across_the_cut(tmp_path: Path, think: bool) -> None:
    directory = write_parrot(tmp_path / "parrot", FAMILIES["qwen3"][0], SAID, ["<|im_start|>assistant\n"])
    prompt = Prompt(
        style="chat", context=2048, keep=4, shift=True, messages=(Message("user", "hi"),), tools=(GET_W,), think=think
    )
    opening = Submit(1, prompt, Sampling(**{**GREEDY, "limit": 0}), want_context=False)
    pieces = _goes_on_from_every_cut(directory, opening)
    assert Delta.joined(pieces).tool_calls[0].name == "get_w"


def test_thoughts_come_before_a_format_across_the_cut(tmp_path: Path) -> None:
    said = ("<think>", "h", "m", "</think>", '{"a": 1, "b": "x"}')
    directory = write_parrot(tmp_path / "parrot", FAMILIES["qwen3"][0], said, ["<|im_start|>assistant\n"])
    prompt = Prompt(
        style="chat", context=2048, keep=4, shift=True, messages=(Message("user", "hi"),), think=True, think_set=True
    )
    opening = Submit(1, prompt, Sampling(**{**GREEDY, "limit": 60}), want_context=False, grammar=SCHEMA)
    pieces = _goes_on_from_every_cut(directory, opening)
    assert Delta.joined(pieces).thinking == "hm"


def test_an_answer_of_which_only_the_end_was_lost_is_just_ended(tiny_directory: Path) -> None:
    whole = Machine(tiny_directory)
    whole.run([submit(1, "bada", limit=5)])
    again = Machine(tiny_directory)
    again.run([replace(submit(1, "bada", limit=5), resume=tuple(whole.tokens(1)))])
    assert not again.tokens(1)
    assert _end(again, 1) == _end(whole, 1)
