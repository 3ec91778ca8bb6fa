"""Whoever comes and goes, and whenever: each stream of a batch says what it says alone."""

import random
from functools import partial
from typing import Any

import pytest

from mlx_ollama.worker.batch import Batch, ContinuousBatch, Joining
from mlx_ollama.worker.groups import Groups
from mlx_ollama.worker.kv import new_cache, read
from mlx_ollama.worker.load import load
from mlx_ollama.worker.sampling import Choice, Sampler
from tests.support.kinds import KINDS, write_kind
from tests.support.tiny import VOCABULARY, write_tiny_model

STREAMS = 9
LONGEST = 40


@pytest.fixture(scope="module", params=["plain", *KINDS])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp(request.param)
    made = write_tiny_model(directory) if request.param == "plain" else write_kind(directory, request.param)
    return load(made, device="cpu")


def _streams(model: Any, chance: random.Random) -> list[Joining]:
    """Prompts of one token and of many, greedy and not; drawn again with the same chance they are the same again."""
    streams = []
    for at in range(STREAMS):
        tokens = [chance.randrange(3, VOCABULARY) for _ in range(chance.choice([1, 2, 7, 60]))]
        cache = new_cache(model)
        if len(tokens) > 1:
            read(model, tokens[:-1], cache)
        sampler = Sampler(chance.choice([Choice(), Choice(0.9, 40, 0.9)]), seed=at)
        streams.append(Joining(tokens, cache, sampler, [], chance.randint(1, LONGEST)))
    return streams


def _said_alone(loaded: Any, stream: Joining) -> list[int]:
    batch = ContinuousBatch(loaded.model, loaded.eos_token_ids)
    batch.join([stream])
    return [sampled.token for _ in range(LONGEST + 1) for sampled in batch.step()]


def _check_left(stream: Joining, said: list[int], left: Any) -> None:
    assert list(left.tokens) == [*stream.tokens, *said][: len(left.tokens)]
    assert len(left.tokens) >= len(stream.tokens) + len(said) - 1


@pytest.mark.parametrize("can_share", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_company_changes_nothing(loaded: Any, seed: int, *, can_share: bool) -> None:
    chance = random.Random(seed)
    batch: Batch = Groups(partial(ContinuousBatch, loaded.model, loaded.eos_token_ids), can_share=can_share)
    coming = dict(enumerate(_streams(loaded.model, random.Random(seed))))
    alone = [_said_alone(loaded, stream) for stream in _streams(loaded.model, random.Random(seed))]
    said: list[list[int]] = [[] for _ in range(STREAMS)]
    here: dict[int, tuple[int, Joining]] = {}
    gone: set[int] = set()
    while coming or batch:
        arrivals = [coming.popitem() for _ in range(min(len(coming), chance.choice([0, 0, 0, 1, 2, 4])))]
        handles = batch.join([stream for _, stream in arrivals])
        here |= dict(zip(handles, arrivals, strict=True))
        if here and chance.random() < 0.1:
            handle = chance.choice(sorted(here))
            at, stream = here.pop(handle)
            gone.add(at)
            _check_left(stream, said[at], batch.leave(handle))
        for sampled in batch.step():
            at, stream = here[sampled.handle]
            said[at].append(sampled.token)
            if sampled.ended:
                _check_left(stream, said[at], sampled.left)
                del here[sampled.handle]
    assert not here
    for at in range(STREAMS):
        assert said[at] == (alone[at][: len(said[at])] if at in gone else alone[at])
