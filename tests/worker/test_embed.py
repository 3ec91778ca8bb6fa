"""The engine that embeds, on tiny models with real mlx."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import qwen3

from mlx_ollama.errors import LoadFailed
from mlx_ollama.models.directory import ModelDirectory
from mlx_ollama.protocol import Cancel, Embed, Embedded, Failed, Frame, Prompt, Render
from mlx_ollama.worker import embed as module
from mlx_ollama.worker.build import PromptCache, build
from mlx_ollama.worker.device import Device
from mlx_ollama.worker.embed import EmbedEngine
from mlx_ollama.worker.embedder import LoadedEmbedder, finished, load_embedder
from mlx_ollama.worker.load import LoadError
from tests.support.embedders import write_modules, write_tiny_decoder, write_tiny_encoder
from tests.support.tiny import write_tokenizer

TEXTS = ["ba", "zuzu zize momo", "", "keti " * 9, "foo bar", "vi ni vi di", "so do so " * 6, "le"]


def load(directory: Path) -> LoadedEmbedder:
    mx.set_default_device(mx.cpu)
    embedder = ModelDirectory.read(directory).embedder
    assert embedder
    return load_embedder(directory, embedder, Device("cpu", 0))


class Machine:
    """An engine and what it has sent."""

    def __init__(self, loaded: LoadedEmbedder) -> None:
        self.sent: list[Frame] = []
        self.engine = EmbedEngine(loaded, self.sent.extend, device="cpu", slice_seconds=0.25)

    def run(self, *arrivals: Iterable[Frame]) -> None:
        for frames in arrivals:
            self.engine.turn(frames)
        for _ in range(500):
            if not self.engine._jobs:
                return
            self.engine.turn([])
        raise AssertionError("the engine does not come to rest")

    def vectors(self, request: int) -> list[tuple[float, ...]]:
        answers = [frame for frame in self.sent if isinstance(frame, Embedded) and frame.id == request]
        assert [answer.left for answer in answers] == sorted((answer.left for answer in answers), reverse=True)
        assert answers[-1].left == 0
        numbered = sorted(pair for answer in answers for pair in answer.vectors)
        return [tuple(json.loads(vector)) for _, vector in numbered]

    def failure(self, request: int) -> Failed:
        return next(frame for frame in self.sent if isinstance(frame, Failed) and frame.id == request)


def ask(request: int, *inputs: str, **changes: Any) -> Embed:
    fields = {"context": 2048, "truncate": True, "normalize": True, "dimensions": 0, **changes}
    return Embed(request, inputs, **fields)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> LoadedEmbedder:
    return load(write_tiny_encoder(tmp_path_factory.mktemp("encoder")))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> LoadedEmbedder:
    return load(write_tiny_decoder(tmp_path_factory.mktemp("decoder")))


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_a_batch_equals_each_alone(kind: str, request: pytest.FixtureRequest) -> None:
    loaded = request.getfixturevalue(kind)
    together, alone = Machine(loaded), Machine(loaded)
    together.run([ask(1, *TEXTS)])
    alone.run(*([ask(number, text)] for number, text in enumerate(TEXTS)))
    batch = np.array(together.vectors(1))
    single = np.array([alone.vectors(number)[0] for number in range(len(TEXTS))])
    assert np.abs(batch - single).max() < 1e-5
    assert np.allclose(np.linalg.norm(batch, axis=1), 1, atol=1e-6)
    likeness = batch @ batch.T
    assert likeness[np.triu_indices(len(TEXTS), 1)].max() < 0.9999, "texts are told apart"


def test_requests_share_batches_and_take_turns(encoder: LoadedEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_BATCH_TEXTS", 4)
    machine = Machine(encoder)
    machine.run([ask(1, *["ba"] * 40), ask(2, "be"), ask(3, "bi", "bo")])
    order = [frame.id for frame in machine.sent if isinstance(frame, Embedded)]
    assert order.index(3) < 6
    assert order.index(2) < 6
    assert len(machine.vectors(1)) == 40
    shared = Machine(encoder)
    shared.engine.turn([ask(1, "ba"), ask(2, "be"), ask(3, "bi")])
    assert [frame.id for frame in shared.sent if isinstance(frame, Embedded)] == [1, 2, 3], "one turn answers all"


def test_many_texts_are_read_in_pieces(encoder: LoadedEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_TEXTS", 8)
    monkeypatch.setattr(module, "READ_CHARACTERS", 40)
    machine = Machine(encoder)
    texts = [f"ba{vowel} " * count for count in range(1, 12) for vowel in "aeiou"]
    machine.run([ask(1, *texts), ask(2, "zu")])
    alone = Machine(encoder)
    alone.run([ask(1, texts[37])])
    assert np.allclose(machine.vectors(1)[37], alone.vectors(1)[0], atol=1e-5)
    assert next(frame.id for frame in machine.sent if isinstance(frame, Embedded) and not frame.left) == 2


def test_a_cancelled_request_costs_nothing_more(encoder: LoadedEmbedder) -> None:
    machine = Machine(encoder)
    machine.run([ask(1, *["ba " * 30] * 2000)], [Cancel(1), Cancel(7)])
    assert sum(len(frame.vectors) for frame in machine.sent if isinstance(frame, Embedded)) < 600
    assert not machine.engine._jobs


def test_texts_that_are_too_long(encoder: LoadedEmbedder) -> None:
    machine = Machine(encoder)
    long, cut = "ba " * 100, "ba " * 62
    whole = {"truncate": False}
    machine.run(
        [ask(1, long), ask(2, cut, **whole), ask(3, "be", long, **whole), ask(4, "ba be bi", context=4)],
        [ask(5, "ba be", context=4, **whole), ask(6, "x", context=2)],
    )
    assert np.allclose(machine.vectors(1), machine.vectors(2), atol=1e-5), "64 positions, two of them for the marks"
    assert machine.failure(3) == Failed(3, "invalid", "the input length exceeds the context length")
    assert np.allclose(machine.vectors(4), machine.vectors(5), atol=1e-5)
    assert machine.failure(6).reason == "input after truncation exceeds maximum context length"
    counted = {frame.id: frame.tokens for frame in machine.sent if isinstance(frame, Embedded)}
    assert counted == {1: 64, 2: 64, 4: 4, 5: 4}


def test_dimensions_and_raw_vectors(encoder: LoadedEmbedder) -> None:
    machine = Machine(encoder)
    machine.run([ask(1, "ba", normalize=False), ask(2, "ba"), ask(3, "ba", dimensions=5), ask(4, "ba", dimensions=32)])
    raw, unit, short, same = (np.array(machine.vectors(number)[0]) for number in (1, 2, 3, 4))
    assert np.linalg.norm(raw) > 1.5
    assert np.allclose(raw / np.linalg.norm(raw), unit, atol=1e-6)
    assert np.allclose(raw[:5] / np.linalg.norm(raw[:5]), short, atol=1e-6)
    assert np.array_equal(same, unit)
    assert np.array_equal(
        unit.astype(np.float32), unit.astype(np.float32).astype(np.float64).round(12).astype(np.float32)
    )


def test_vectors_without_length_or_numbers(encoder: LoadedEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert finished(np.zeros((1, 3), np.float32), normalize=True, dimensions=0).tolist() == [[0, 0, 0]]
    real = LoadedEmbedder.vectors

    def broken(self: LoadedEmbedder, texts: Any) -> Any:
        vectors = real(self, texts)
        vectors[[len(text) == 3 for text in texts]] = np.inf
        return vectors

    monkeypatch.setattr(LoadedEmbedder, "vectors", broken)
    machine = Machine(encoder)
    machine.run([ask(1, "ba"), ask(2, "ba be")])
    assert machine.failure(1) == Failed(1, "invalid", "embedding contains NaN or Inf values")
    assert machine.vectors(2), "the other text of the batch is none the worse"


def test_a_batch_that_fails_ends_its_requests_only(
    encoder: LoadedEmbedder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(encoder)
    with monkeypatch.context() as patched, caplog.at_level(logging.CRITICAL):
        patched.setattr(LoadedEmbedder, "vectors", lambda self, texts: 1 / 0)
        machine.run([ask(1, "ba"), ask(2, "be")])
    assert machine.failure(2) == Failed(2, "failed", "ZeroDivisionError: division by zero")
    machine.run([ask(3, "ba")])
    assert machine.vectors(3)


def test_what_it_does_not_do(encoder: LoadedEmbedder) -> None:
    machine = Machine(encoder)
    machine.run([Render(1, Prompt("raw", 9, 0, False)), ask(2)])
    assert machine.failure(1).reason == "this model embeds, it does not generate text"
    assert machine.sent[1] == Embedded(2, (), 0, 0)


def test_batches_follow_the_speed_and_stay_within_bounds(encoder: LoadedEmbedder) -> None:
    def settled(seconds_per_look: float) -> int:
        ticks = iter(range(10_000))
        engine = EmbedEngine(
            encoder,
            lambda frames: None,
            device="cpu",
            slice_seconds=0.1,
            clock=lambda: int(next(ticks) * seconds_per_look * 1e9),
        )
        engine.turn([ask(1, *["ba " * 30] * 400)])
        for _ in range(20):
            engine.turn([])
        return engine._batch_tokens

    assert settled(10.0) == module.SMALLEST_BATCH_TOKENS
    assert settled(0.0) == module.LARGEST_BATCH_TOKENS["cpu"]


def test_layers_after_the_pooling(tmp_path: Path) -> None:
    loaded = load(write_tiny_encoder(tmp_path, dense=7))
    machine = Machine(loaded)
    machine.run([ask(1, "ba", normalize=False)])
    (vector,) = machine.vectors(1)
    assert len(vector) == 7
    assert max(map(abs, vector)) <= 1


def test_a_decoder_with_its_head_gives_the_same(decoder: LoadedEmbedder, tmp_path: Path) -> None:
    bare, whole = Machine(decoder), Machine(load(write_tiny_decoder(tmp_path, bare=False)))
    for machine in (bare, whole):
        machine.run([ask(1, "zuzu zize")])
    assert bare.vectors(1) == whole.vectors(1)
    assert whole.engine._embedder.weight_bytes == decoder.weight_bytes, "the head is not loaded"


@pytest.mark.parametrize("tied", [True, False])
def test_a_qwen3_embedder_gives_the_last_tokens_vector(tmp_path: Path, tied: bool) -> None:
    config = {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rms_norm_eps": 1e-6,
        "vocab_size": 512,
        "max_position_embeddings": 128,
        "rope_theta": 1e6,
        "tie_word_embeddings": tied,
    }
    mx.set_default_device(mx.cpu)
    model = qwen3.Model(qwen3.ModelArgs.from_dict(config))
    # Published without the head, and without the name of the body before names.
    named = dict(tree_flatten(model.model.parameters()))
    mx.save_safetensors(str(tmp_path / "model.safetensors"), named, metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_tokenizer(tmp_path)
    write_modules(tmp_path, ("lasttoken",))
    loaded = load(tmp_path)
    texts = ["zuzu zize momo", "ba", "keti " * 9]
    machine = Machine(loaded)
    machine.run([ask(1, *texts, normalize=False)])
    for vector, ids in zip(machine.vectors(1), loaded.tokenizer.encode(texts, longest=99, truncate=False), strict=True):
        assert np.abs(np.array(model.model(mx.array([ids])))[0, -1] - vector).max() < 1e-5


def test_directories_that_cannot_embed(tmp_path: Path) -> None:
    directory = write_tiny_decoder(tmp_path / "both-ways")
    config = (directory / "config.json").read_text()
    (directory / "config.json").write_text(config.replace("{", '{"is_causal": false, ', 1))
    with pytest.raises(LoadFailed, match="llama embedders that read in both directions are not supported"):
        load(directory)
    strange = write_tiny_encoder(tmp_path / "strange")
    modules = strange / "modules.json"
    modules.write_text(modules.read_text().replace("models.Normalize", "models.Router"))
    with pytest.raises(LoadFailed, match=r"the step Router in .*modules\.json is not supported"):
        load(strange)
    lost = write_tiny_encoder(tmp_path / "lost")
    (lost / "tokenizer.json").write_text("{")
    with pytest.raises(LoadFailed, match=r"the tokenizer in .* cannot be loaded"):
        load(lost)
    (lost / "tokenizer.json").unlink()
    with pytest.raises(LoadFailed, match=r"lost has no tokenizer\.json"):
        load(lost)
    with pytest.raises(LoadError, match="there is no model directory"):
        build(
            tmp_path / "absent",
            Device("cpu", 0),
            lambda frames: None,
            prefill_slice=0.25,
            prompt_cache=PromptCache(0, ""),
        )


def test_a_pooling_that_nobody_names_is_a_guess(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = write_tiny_encoder(tmp_path)
    load(directory)
    assert not caplog.records
    (directory / "1_Pooling" / "config.json").unlink()
    load(directory)
    assert "does not say how to pool; taking mean" in caplog.text
