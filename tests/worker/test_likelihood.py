"""`logprobs` against a softmax in float64, whatever else happens to the logits."""

import json
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_ollama.protocol import Step, Submit
from mlx_ollama.types import TokenLogprob
from tests.worker.test_engine import PROMPTS, Machine, submit


def _logprobs(machine: Machine, request: int) -> list[TokenLogprob]:
    pieces = [piece for frame in machine.sent if isinstance(frame, Step) for piece in frame.deltas]
    return [entry for own, delta in pieces if own == request for entry in delta.logprobs]


def _expected(machine: Machine, prompt: str, answer: list[int]) -> "np.ndarray[Any, Any]":
    """Log-probabilities (answer, vocabulary) of the model read in one go."""
    ids = [*machine.tokenizer.encode(prompt), *answer]
    logits = np.array(machine.model(mx.array([ids]))[0].astype(mx.float32)).astype(np.float64)
    logits = logits[-len(answer) - 1 : -1]
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.9, "top_k": 40, "seed": 3},
        {"repeat_penalty": 1.5, "presence_penalty": 1.0, "temperature": 1.0, "seed": 5},
    ],
)
def test_they_are_the_models_own(tiny_directory: Any, changes: dict[str, Any]) -> None:
    machine = Machine(tiny_directory)
    wanted = [submit(at, text, logprobs=at % 4, **changes) for at, text in enumerate(PROMPTS)]
    machine.run(wanted[:5], wanted[5:])
    for at, text in enumerate(PROMPTS):
        answer, told = machine.tokens(at), _logprobs(machine, at)
        assert len(told) == len(answer) == 24
        expected = _expected(machine, text, answer)
        for token, entry, row in zip(answer, told, expected, strict=True):
            spelled = machine.tokenizer.token_bytes(token)
            assert (entry.bytes, entry.token) == (tuple(spelled), spelled.decode("utf-8", "replace"))
            assert entry.logprob == pytest.approx(row[token], abs=2e-4)
            assert [other.logprob for other in entry.top] == pytest.approx(np.sort(row)[::-1][: at % 4], abs=2e-4)


def test_a_grammar_does_not_change_them(tiny_directory: Any) -> None:
    machine = Machine(tiny_directory)
    plain = submit(1, PROMPTS[0], logprobs=1)
    schema = json.dumps({"type": "array", "items": {"type": "integer"}, "minItems": 99})
    machine.run([Submit(1, plain.prompt, plain.sampling, False, schema)])
    expected = _expected(machine, PROMPTS[0], machine.tokens(1))
    told = [entry.logprob for entry in _logprobs(machine, 1)]
    assert told == pytest.approx(expected[np.arange(len(told)), machine.tokens(1)], abs=2e-4)


def test_who_does_not_ask_is_not_told(tiny_directory: Any) -> None:
    machine = Machine(tiny_directory)
    machine.run([submit(1, PROMPTS[0]), submit(2, PROMPTS[1], logprobs=0)])
    assert _logprobs(machine, 1) == []
    assert all(entry.top == () for entry in _logprobs(machine, 2))


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"top_k": 4, "top_p": 1.0, "temperature": 1.0}, 4),
        ({"top_k": 4, "top_p": 1.0, "temperature": 2.0}, 4),
        ({"top_k": 6, "top_p": 0.7, "temperature": 1.0}, None),
        ({"top_k": 6, "top_p": 1.0, "min_p": 0.4, "temperature": 1.0}, None),
    ],
)
def test_what_is_drawn_follows_the_model(tiny_directory: Any, changes: dict[str, Any], kept: int | None) -> None:
    """The whole way: the first token of a thousand seeds, against what options make of the model's own figures."""
    machine, draws = Machine(tiny_directory), 1000
    machine.run([submit(seed, PROMPTS[1], seed=seed, limit=1, **changes) for seed in range(draws)], turns=20_000)
    row = _expected(machine, PROMPTS[1], [5])[0]
    order = np.argsort(-row)[: changes["top_k"]]
    likely = np.exp(row[order])
    likely /= likely.sum()
    before = np.cumsum(likely) - likely
    allowed = (before < changes["top_p"]) & (likely >= changes.get("min_p", 0.0) * likely[0])
    weights = np.where(allowed, likely, 0) ** (1 / changes["temperature"])
    drawn = [machine.tokens(seed)[0] for seed in range(draws)]
    counts = np.array([drawn.count(int(token)) for token in order]) / draws
    assert counts.sum() == pytest.approx(1.0)
    assert counts == pytest.approx(weights / weights.sum(), abs=0.06)
    assert kept is None or allowed.sum() == kept
