"""The wall clock jumps: what is measured and what is timed goes by the monotonic one."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.faults.standing import asking, good_text, standing
from tests.support.harm import Harm, harm
from tests.support.server import Server, serving, wait_until

pytestmark = pytest.mark.xdist_group("matrix-clock")

HOUR = 3600.0


@dataclass(frozen=True)
class Bench:
    server: Server
    harm: Harm
    good: str

    def jump(self, seconds: float) -> None:
        """Set the clocks of all its processes."""
        for process in (self.server.process, *self.server.workers()):
            self.harm.shift(process.pid, seconds)


@pytest.fixture
def bench(tiny_home: Path) -> Iterator[Bench]:
    with harm() as doing, serving(tiny_home, "--context-length", "8192", env=doing.environment) as server:
        yield Bench(server, doing, good_text(server))


def _row(fault: str, seconds: float, when: str, outcome: str) -> Any:
    return pytest.param(seconds, marks=pytest.mark.fault(fault, when, outcome), id=fault.replace(" ", "-"))


@pytest.mark.parametrize(
    "seconds",
    [
        _row(
            "the clock is set back by an hour",
            -HOUR,
            "decode",
            "answered, its durations right, kept and unloaded in time",
        ),
        _row(
            "the clock is set forward by a day",
            24 * HOUR,
            "decode",
            "answered, its durations right, kept and unloaded in time",
        ),
    ],
)
def test_the_clock_jumps(bench: Bench, seconds: float) -> None:
    server = bench.server
    with standing(server, bench.good):
        body = {"model": "tiny", "prompt": "bada", "options": {"num_predict": 1000}}
        with asking(server, [body]) as asks:
            wait_until(lambda: asks[0].lines, "the first words")
            bench.jump(seconds)
        last = asks[0].lines[-1]
        assert last["done"]
        assert 0 < last["eval_duration"] <= last["total_duration"] < 120e9
        told = datetime.fromisoformat(last["created_at"])
        assert abs(told - datetime.now(UTC) - timedelta(seconds=seconds)) < timedelta(minutes=10)
        # Its five minutes are neither over nor an hour longer.
        (model,) = server.client.get("/api/ps").json()["models"]
        left = datetime.fromisoformat(model["expires_at"]) - told
        assert timedelta(minutes=3) < left < timedelta(minutes=6)
        server.post("/api/generate", {"model": "tiny", "keep_alive": "1s"})
        wait_until(lambda: not server.workers(), "the end of its keep-alive", seconds=20)


@pytest.mark.fault("the clock is set back by an hour", "rate limit", "Retry-After stays right")
def test_the_window_of_the_rate_limit_stays(tiny_home: Path) -> None:
    limit = {"MLX_API_RATE_LIMIT": "2", "MLX_API_RATE_WINDOW": "20"}
    with harm() as doing, serving(tiny_home, env=doing.environment | limit) as server:
        text = good_text(server)
        assert good_text(server) == text
        doing.shift(server.process.pid, -HOUR)
        refused = server.post("/api/generate", {"model": "tiny", "prompt": "x"})
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 20
