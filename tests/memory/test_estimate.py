"""Sizes estimated from headers, beside what the same models hold once they are loaded."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import quantize_model

from mlx_ollama.memory.estimate import ANSWER_TOKENS, USUAL_CONTEXT, Demand, Estimator, Need
from mlx_ollama.models.names import ModelName
from mlx_ollama.models.store import StoredModel
from mlx_ollama.models.weights import Weights
from mlx_ollama.protocol import Prompt
from mlx_ollama.types import Message
from mlx_ollama.worker.load import load
from tests.support.embedders import write_tiny_encoder
from tests.support.tiny import write_tiny_model


def _stored(directory: Path) -> StoredModel:
    return StoredModel(ModelName.parse("x"), "d", 0, 0, Weights.at(directory, "key"), (), {}, "", "", {}, (), ())


def _prompt(**members: Any) -> Prompt:
    return Prompt(style="chat", context=0, keep=0, shift=True, **members)


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_tiny_model(tmp_path_factory.mktemp("quantised"))
    loaded = load(directory, device="cpu")
    model, config = quantize_model(loaded.model, loaded.config, 64, 4)
    mx.save_safetensors(str(directory / "model.safetensors"), dict(tree_flatten(model.parameters())))
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def test_weights_on_a_cpu_are_what_is_loaded_there(tiny_directory: Path, quantised: Path) -> None:
    estimator = Estimator("cpu")
    for directory in (tiny_directory, quantised):
        assert estimator.need(_stored(directory), None).weights == load(directory, device="cpu").weight_bytes


def test_weights_on_a_gpu_are_as_wide_as_they_are_stored(quantised: Path) -> None:
    on_disk = (quantised / "model.safetensors").stat().st_size
    assert Estimator("gpu").need(_stored(quantised), None).weights == on_disk
    taught = Estimator("cpu")
    taught.learn("gpu")
    assert taught.need(_stored(quantised), None).weights == on_disk


def test_a_tokens_keys_and_values_are_what_the_cache_holds(tiny_directory: Path) -> None:
    model = load(tiny_directory, device="cpu").model
    cache = make_prompt_cache(model)
    model(mx.array([list(range(3, 259))]), cache=cache)
    held = sum(part.nbytes for layer in cache for part in (layer.keys, layer.values))
    assert Estimator("cpu").token_bytes(_stored(tiny_directory)) * 256 == held
    assert Estimator("gpu").token_bytes(_stored(tiny_directory)) * 256 == held / 2


@pytest.mark.parametrize(
    ("demand", "tokens"),
    [(Demand(), USUAL_CONTEXT), (Demand(512), 512), (Demand(1 << 20), 8192), (None, 0)],
)
def test_a_model_needs_room_for_one_conversation(tiny_directory: Path, demand: Demand | None, tokens: int) -> None:
    estimator, model = Estimator("cpu"), _stored(tiny_directory)
    assert estimator.need(model, demand).context == tokens * estimator.token_bytes(model)


def test_an_embedder_caches_nothing_and_what_is_no_model_weighs_nothing(tmp_path: Path) -> None:
    encoder = _stored(write_tiny_encoder(tmp_path / "encoder"))
    assert Estimator("cpu").token_bytes(encoder) == 0
    assert Estimator("cpu").need(encoder, None).weights > 0
    assert Estimator("cpu").need(_stored(tmp_path), Demand()) == Need(0, 0)
    assert Estimator("cpu").token_bytes(_stored(tmp_path)) == 0


def test_what_a_request_is_expected_to_fill() -> None:
    chat = _prompt(messages=(Message("user", "x" * 300), Message("user", "x" * 30)), prefix=(1, 2, 3))
    assert Demand.of(chat, limit=0, context=0).expected == 113 + ANSWER_TOKENS
    assert Demand.of(chat, limit=20, context=0).expected == 133
    assert Demand.of(chat, limit=2000, context=512).expected == 512
    assert Demand.of(_prompt(text="x" * 30, suffix="x" * 60), limit=1, context=4096).expected == 31
    assert Demand.of(None, limit=50, context=64) == Demand(64)
