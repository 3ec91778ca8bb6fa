"""What was read before is not read again, and makes no difference to any token."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlx_ollama.choosers import NotAChooser
from mlx_ollama.protocol import Cancel, Known, Prompt, Sampling, Submit
from mlx_ollama.types import Message
from mlx_ollama.worker import prefixes as prefixes_module
from mlx_ollama.worker.kv import new_cache, read, size_of
from mlx_ollama.worker.prefix_choice import LeastRecentlyUsed, Remembered, chooser
from mlx_ollama.worker.prefixes import Prefixes
from tests.support.greedy import GREEDY
from tests.support.kinds import KINDS, WINDOW, write_kind
from tests.support.tiny import write_tiny_model
from tests.worker.test_engine import Machine, submit

MEBIBYTE = 1 << 20
SYSTEM = Message("system", "zuzu momo keti rara " * 12)
WILD = {"temperature": 1.3, "top_k": 0, "top_p": 1.0, "seed": 5, "repeat_penalty": 1.2}


@pytest.fixture(scope="module", params=["plain", *KINDS])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    return write_tiny_model(folder) if request.param == "plain" else write_kind(folder, request.param)


def _remembering(directory: Path, **options: Any) -> Machine:
    return Machine(directory, **{"prefixes": Prefixes(64 * MEBIBYTE), **options})


def _chat(request: int, messages: Sequence[Message], *, tools: Sequence[Any] = (), **changes: Any) -> Submit:
    prompt = Prompt(style="chat", context=2048, keep=4, shift=True, messages=tuple(messages), tools=tuple(tools))
    return Submit(request, prompt, Sampling(**{**GREEDY, **changes}), want_context=True)


def _reused(machine: Machine, request: int) -> int:
    return next(frame.reused for frame in machine.sent if isinstance(frame, Known) and frame.id == request)


def _conversation(machine: Machine, changes: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Three turns, an edited question, and another conversation under the same system message, in one worker."""
    messages = [SYSTEM, Message("user", "bada la mi")]
    for turn in range(3):
        machine.run([_chat(turn, messages, **changes)])
        yield machine.text(turn), machine.finished(turn).prompt_tokens
        messages += [Message("assistant", machine.text(turn)), Message("user", f"ni {turn} la")]
    for request, question in ((10, "something else"), (11, "so do")):
        last = [*messages[:-1], Message("user", question)] if request == 10 else [SYSTEM, Message("user", question)]
        machine.run([_chat(request, last, **changes)])
        yield machine.text(request), machine.finished(request).prompt_tokens


@pytest.mark.parametrize("changes", [{}, WILD], ids=["greedy", "seeded"])
def test_it_changes_no_token_and_no_count(directory: Path, changes: dict[str, Any]) -> None:
    remembering, forgetful = _remembering(directory), Machine(directory)
    assert list(_conversation(remembering, changes)) == list(_conversation(forgetful, changes))
    assert [_reused(forgetful, request) for request in (0, 1, 2, 10, 11)] == [0] * 5
    assert _reused(remembering, 0) == 0
    shared = _shared_start(remembering)
    for request in (1, 2, 10):
        assert _reused(remembering, request) >= 0.5 * remembering.finished(request).prompt_tokens
    assert _reused(remembering, 11) >= shared


def _shared_start(machine: Machine) -> int:
    return len(machine.tokenizer.encode(f"<|im_start|>system\n{SYSTEM.content}<|im_end|>\n"))


def test_many_conversations_at_once_and_their_next_turns(directory: Path) -> None:
    openings = [[Message("user", f"{word} " * 40)] for word in ("bada", "keti", "momo", "zuzu", "lele")]
    answers = []
    for machine in (_remembering(directory), Machine(directory)):
        machine.run([_chat(at, messages) for at, messages in enumerate(openings)])
        first = [machine.text(at) for at in range(5)]
        again = [
            _chat(10 + at, [*messages, Message("assistant", text), Message("user", "ra")])
            for at, (messages, text) in enumerate(zip(openings, first, strict=True))
        ]
        machine.run(again)
        answers.append((first, [machine.finished(10 + at).context for at in range(5)]))
        reused = [_reused(machine, 10 + at) for at in range(5)]
        assert all(reused) or not any(reused)
    assert answers[0] == answers[1]


def test_what_a_cancelled_request_had_read_and_said_is_kept(directory: Path) -> None:
    machine = _remembering(directory)
    long = "keti zuzu momo " * 60
    machine.engine.turn([submit(1, long, limit=0)])
    while not machine.tokens(1):
        machine.engine.turn([])
    for _ in range(6):
        machine.engine.turn([])
    machine.run([Cancel(1)])
    machine.run([submit(2, long), submit(3, long + "rara")])
    other = Machine(directory)
    other.run([submit(2, long), submit(3, long + "rara")])
    assert _reused(machine, 2) >= machine.finished(2).prompt_tokens - 1 - WINDOW
    assert machine.finished(2).context == other.finished(2).context
    assert machine.finished(3).context == other.finished(3).context


def test_a_template_and_tools_are_a_world_of_their_own(tiny_directory: Path) -> None:
    machine = _remembering(tiny_directory)
    messages = [SYSTEM, Message("user", "bada")]
    tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}
    machine.run([_chat(1, messages)])
    machine.run([_chat(2, messages, tools=[tool])])
    own = _chat(3, messages)
    template = (
        "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
    )
    machine.run([replace(own, prompt=replace(own.prompt, template=template))])
    machine.run([_chat(4, messages)])
    assert [_reused(machine, request) for request in (1, 2, 3)] == [0, 0, 0]
    assert _reused(machine, 4) == machine.finished(4).prompt_tokens - 1


def test_the_first_difference_is_told(tiny_directory: Path) -> None:
    machine = _remembering(tiny_directory)
    head = "zuzu momo " * 30
    machine.run([submit(1, head + "bada " + "keti " * 30)])
    machine.run([submit(2, head + "lele " + "keti " * 30)])
    known = next(frame for frame in machine.sent if isinstance(frame, Known) and frame.id == 2)
    before, after = (machine.tokenizer.encode(head + word + "keti " * 30) for word in ("bada ", "lele "))
    at = next(at for at in range(len(before)) if before[at] != after[at])
    assert (known.reused, known.differs_at) == (at, at)
    assert (known.was, known.now) == (machine.tokenizer.decode([before[at]]), machine.tokenizer.decode([after[at]]))
    machine.run([submit(3, "so " + head)])
    other = next(frame for frame in machine.sent if isinstance(frame, Known) and frame.id == 3)
    assert (other.reused, other.differs_at, other.now) == (0, 0, "so")


@pytest.fixture(scope="module")
def model(tiny_directory: Path) -> Any:
    return Machine(tiny_directory).model


class Clock:
    now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def _tokens(seed: int, length: int = 100) -> list[int]:
    return [5 + (seed * 31 + step * 7) % 400 for step in range(length)]


def _cached(model: Any, tokens: list[int]) -> list[Any]:
    cache = new_cache(model)
    read(model, tokens, cache)
    return cache


def test_the_budget_holds_and_the_least_recently_used_go(model: Any) -> None:
    one = size_of(_cached(model, _tokens(0))) + 400
    prefixes = Prefixes(3 * one, clock=Clock())
    for seed in range(3):
        prefixes.keep("", _tokens(seed), _cached(model, _tokens(seed)))
    assert prefixes.recall("", [*_tokens(0), 7]).length == 100
    prefixes.keep("", _tokens(3), _cached(model, _tokens(3)))
    assert [prefixes.recall("", [*_tokens(seed), 7]).length for seed in range(4)] == [100, 0, 100, 100]
    assert (len(prefixes), prefixes.size) == (3, 3 * one)
    prefixes.keep("", _tokens(9, 2000), _cached(model, _tokens(9, 2000)))
    assert len(prefixes) == 3, "what is larger than the budget is not kept at all"
    assert prefixes.release() == 3 * one
    assert (len(prefixes), prefixes.size, prefixes.recall("", _tokens(0)).length) == (0, 0, 0)


def test_their_number_has_a_limit(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes_module, "MOST_ENTRIES", 2)
    prefixes = Prefixes(64 * MEBIBYTE, clock=Clock())
    for seed in range(4):
        prefixes.keep("", _tokens(seed), _cached(model, _tokens(seed)))
    assert [prefixes.recall("", [*_tokens(seed), 7]).length for seed in range(4)] == [0, 0, 100, 100]


def test_a_chooser_decides(model: Any) -> None:
    class Shortest:
        def order(self, remembered: Sequence[Remembered]) -> Sequence[Remembered]:
            return sorted(remembered, key=lambda prompt: prompt.tokens)

    one = size_of(_cached(model, _tokens(0))) + 400
    prefixes = Prefixes(3 * one, Shortest())
    for seed, length in ((0, 100), (1, 40), (2, 90), (3, 100)):
        prefixes.keep("", _tokens(seed, length), _cached(model, _tokens(seed, length)))
    assert [prefixes.recall("", [*_tokens(seed, 40), 7]).length for seed in range(4)] == [40, 0, 40, 40]


def test_a_chooser_that_fails_is_replaced(model: Any) -> None:
    class InPlace:
        """As somebody writes one who forgets that `sort` returns nothing."""

        def order(self, remembered: Sequence[Remembered]) -> Any:
            return remembered.sort(key=lambda prompt: prompt.tokens)  # type: ignore[attr-defined]

    one = size_of(_cached(model, _tokens(0))) + 400
    prefixes = Prefixes(2 * one, InPlace(), clock=Clock())
    for seed in range(4):
        prefixes.keep("", _tokens(seed), _cached(model, _tokens(seed)))
    assert [prefixes.recall("", [*_tokens(seed), 7]).length for seed in range(4)] == [0, 0, 100, 100]
    assert prefixes.size == 2 * one


def test_choosers_are_named() -> None:
    assert isinstance(chooser("mlx_ollama.worker.prefix_choice:LeastRecentlyUsed"), LeastRecentlyUsed)
    for wrong in ("nothing", "no_such_module:Class", "mlx_ollama.worker.prefix_choice:Absent", "builtins:dict"):
        with pytest.raises(NotAChooser, match=f"MLX_API_PROMPT_CACHE_CHOOSER: '?{wrong}"):
            chooser(wrong)


def test_a_longer_prompt_takes_the_place_of_its_beginning(model: Any) -> None:
    prefixes = Prefixes(MEBIBYTE * 64)
    for length in (50, 100, 70):
        prefixes.keep("", _tokens(0, length), _cached(model, _tokens(0, length)))
    assert len(prefixes) == 1
    assert prefixes.recall("", [*_tokens(0, 60), 3]).length == 60


def test_whoever_recalls_writes_to_a_copy(model: Any) -> None:
    prefixes = Prefixes(MEBIBYTE * 64)
    prefixes.keep("", _tokens(0), _cached(model, _tokens(0)))
    for rest in ([1, 2, 3], [4, 5, 6]):
        recalled = prefixes.recall("", [*_tokens(0, 80), *rest])
        assert recalled.cache is not None
        read(model, rest, recalled.cache)
    again = prefixes.recall("", [*_tokens(0), 1])
    assert again.cache is not None
    mine, theirs = (layer.keys_and_values() for layer in (again.cache[1], _cached(model, _tokens(0))[1]))
    assert (abs(mine[0] - theirs[0]).max().item(), again.length) == (0.0, 100)


def test_short_prompts_go_on_sharing_a_pass(tiny_directory: Path) -> None:
    machine = _remembering(tiny_directory)
    machine.run([_chat(at, [Message("user", word)]) for at, word in enumerate(("ba", "ke", "mo"))])
    machine.run([_chat(10 + at, [Message("user", word)]) for at, word in enumerate(("di", "so", "re"))])
    assert [_reused(machine, 10 + at) for at in range(3)] == [0, 0, 0]
