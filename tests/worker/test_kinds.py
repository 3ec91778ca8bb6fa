"""Models whose layers forget or only go forward: together and alone they say the same."""

from pathlib import Path

import pytest

from mlx_ollama.protocol import Cancel
from tests.support.kinds import KINDS, write_kind
from tests.worker.test_engine import PROMPTS, Machine, submit


@pytest.fixture(scope="module", params=KINDS)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kind(tmp_path_factory.mktemp(request.param), request.param)


def test_a_batch_equals_single_runs(directory: Path) -> None:
    together = Machine(directory)
    together.run([submit(at, text, limit=40) for at, text in enumerate(PROMPTS)])
    assert len({together.text(at) for at in range(len(PROMPTS))}) == len(PROMPTS)
    for at, text in enumerate(PROMPTS):
        alone = Machine(directory)
        alone.run([submit(at, text, limit=40)])
        assert alone.finished(at).context == together.finished(at).context


def test_joining_and_leaving_change_nobody_elses_tokens(directory: Path) -> None:
    together = Machine(directory)
    arrivals = [[submit(at, text, limit=8 + 9 * at)] for at, text in enumerate(PROMPTS)]
    together.run(*arrivals[:3], [], [], [Cancel(0)], *arrivals[3:])
    for at, text in list(enumerate(PROMPTS))[1:]:
        alone = Machine(directory)
        alone.run([submit(at, text, limit=8 + 9 * at)])
        assert alone.finished(at).context == together.finished(at).context
