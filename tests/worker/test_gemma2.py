"""Gemma 2: several conversations at once, and windows in every other layer."""

import dataclasses
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.generate import BatchGenerator, generate_step
from mlx_lm.models import gemma2 as theirs

from mlx_ollama.worker import gemma2
from mlx_ollama.worker.load import load
from tests.worker.gguf_files import converted
from tests.worker.quantised import Array
from tests.worker.tiny_families import TINY, TinyFamily

PROMPTS = [list(range(3, 3 + length)) for length in (5, 40, 17)]
STEPS = 12
WINDOW = 8


@pytest.fixture
def family() -> TinyFamily:
    tiny = TINY["gemma2"]
    return dataclasses.replace(
        tiny,
        config=tiny.config | {"sliding_window": WINDOW},
        metadata=tiny.metadata | {"attention.sliding_window": WINDOW},
    )


@pytest.fixture
def model(family: TinyFamily, tmp_path: Path) -> Any:
    return load(converted(family.write_gguf(tmp_path / "m.gguf", "F16")), device="cpu").model


def last_logits(model: Any, tokens: list[int]) -> Array:
    return np.array(model(mx.array([tokens]), cache=model.make_cache())[0, -1])


def test_several_conversations_at_once(model: Any) -> None:
    alone = [[int(token) for token, _ in generate_step(mx.array(p), model, max_tokens=STEPS)] for p in PROMPTS]
    generator = BatchGenerator(model)
    handles = generator.insert(PROMPTS, max_tokens=[STEPS] * len(PROMPTS))
    together: dict[int, list[int]] = {handle: [] for handle in handles}
    while any(len(tokens) < STEPS for tokens in together.values()):
        for answer in generator.next_generated():
            together[answer.uid].append(int(answer.token))
    assert [together[handle] for handle in handles] == alone


def test_layers_with_even_numbers_have_windows(model: Any) -> None:
    tokens = list(range(3, 43))
    before = last_logits(model, tokens)
    other = [*tokens[: -WINDOW - 1], 99, *tokens[-WINDOW:]]
    assert not np.array_equal(last_logits(model, other), before)
    # Without what the second layer hears of them, tokens before the window are out of earshot.
    model.layers[1].self_attn.o_proj.weight *= 0
    assert np.array_equal(last_logits(model, other), last_logits(model, tokens))
    inside = [*tokens[:-WINDOW], 99, *tokens[-WINDOW + 1 :]]
    assert not np.array_equal(last_logits(model, inside), last_logits(model, tokens))


def test_reading_in_pieces_is_reading_at_once(model: Any) -> None:
    tokens = list(range(3, 43))
    cache = model.make_cache()
    for start in range(0, len(tokens), 5):
        last = np.array(model(mx.array([tokens[start : start + 5]]), cache=cache)[0, -1])
    assert np.allclose(last, last_logits(model, tokens), atol=1e-4)


def test_within_a_window_it_is_mlx_lms(family: TinyFamily) -> None:
    tokens = mx.array([list(range(3, 3 + WINDOW))])
    ours = gemma2.Model(gemma2.ModelArgs.from_dict(family.config))
    other = theirs.Model(theirs.ModelArgs.from_dict(family.config))
    other.update(ours.parameters())
    assert mx.allclose(ours(tokens), other(tokens), atol=1e-5)
