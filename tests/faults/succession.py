"""Gateways that follow one another on one home, each ended by SIGTERM in the middle of something."""

import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from tests.faults.scenes import Scenes
from tests.faults.standing import good_text, is_gone, is_healthy, stored
from tests.support.harm import Harm, harm
from tests.support.server import Server, serving, wait_until

DRAIN_SECONDS = 0.2
BUDGET_SECONDS = DRAIN_SECONDS + 10.0
"""When a supervisor would have lost its patience."""

STANDING = {
    "MLX_API_DRAIN": str(DRAIN_SECONDS),
    "MLX_API_CONTEXT_LENGTH": "8192",
    "MLX_API_WORKER_GRACE": "0.5",
    "MLX_API_MAX_CONCURRENT": "100",
    # Workers stand still for as long as others are brought to where they shall be.
    "MLX_API_WORKER_PATIENCE": "300",
}


class Succession:
    """`server` is the gateway of the moment, which answers a good request to `model` with `good`."""

    def __init__(self, home: Path, model: str, doing: Harm, env: Mapping[str, str]) -> None:
        self.harm = doing
        self._model = model
        self._home = home
        self._env = {**doing.environment, **STANDING, **env}
        self._reign = ExitStack()
        self.server = self._next()
        self.good = good_text(self.server, self._model)

    def close(self) -> None:
        self._reign.close()

    def end(self, scenes: Scenes) -> dict[str, str]:
        """Set all these scenes, have SIGTERM come in their middle, and judge the end; what came of each.

        Nobody else but the next gateway can say whether all that was stored is still there and good.
        """
        ending, before = self.server, stored(self._home)
        models = ending.client.get("/api/tags").json()["models"]
        with ExitStack() as stack, ThreadPoolExecutor(len(scenes)) as pool:
            under_way = {name: stack.enter_context(scene(ending)) for name, scene in scenes.items()}
            for one in under_way.values():
                one.go()
            ending.process.send_signal(signal.SIGTERM)
            told = time.monotonic()
            outcomes = {name: pool.submit(one.outcome) for name, one in under_way.items()}
            status = ending.process.wait(60)
            took = time.monotonic() - told
            found = {name: outcome.result(60) for name, outcome in outcomes.items()}
        assert status == 0, ending.log.read_text()[-2000:]
        assert took < BUDGET_SECONDS
        workers = [psutil.Process(pid) for pid in self.harm.pids() if psutil.pid_exists(pid)]
        wait_until(lambda: all(map(is_gone, workers)), "the end of every worker", 5)
        assert not _faults_of_ours(ending.log)
        self._reign.close()
        self.server = self._next()
        assert is_healthy(self.server.url)
        assert good_text(self.server, self._model) == self.good
        assert before.items() <= stored(self._home).items()
        left = self.server.client.get("/api/tags").json()["models"]
        assert [model for model in models if model not in left] == []
        return found

    def _next(self) -> Server:
        return self._reign.enter_context(serving(self._home, env=self._env))


@contextmanager
def succession(home: Path, model: str = "tiny", env: Mapping[str, str] | None = None) -> Iterator[Succession]:
    with harm() as doing:
        line = Succession(home, model, doing, env or {})
        try:
            yield line
        finally:
            line.close()


def _faults_of_ours(log: Path) -> list[str]:
    """What asyncio has to say of tasks and callbacks that nobody has looked after."""
    words = ("Exception in callback", "never retrieved", "was destroyed but it is pending")
    return [line for line in log.read_text().splitlines() if any(said in line for said in words)]
