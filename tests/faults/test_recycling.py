"""A worker whose memory climbs is replaced while it is idle; one that only remembers prompts stays."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlx_ollama.memory.growth import FIRST_USES, LEAST_BYTES
from tests.support.harm import Harm, harm
from tests.support.server import Server, run_cli, serving, wait_until

LEAK_MEBIBYTES = 320
"""More than the least that is cared for (memory/growth.py)."""

OFTEN = {"MLX_API_MEMORY_INTERVAL": "0.1", "MLX_API_DEBUG": "1", "MLX_API_LOG_LEVEL": "debug"}
LONG = "zuzu momo keti rara " * 25
PROMPTS = 18


@pytest.fixture
def guilty() -> Iterator[Harm]:
    with harm() as doing:
        yield doing


def _body(prompt: str, tokens: int = 8, **more: Any) -> dict[str, Any]:
    options = {"num_predict": tokens, "num_ctx": 8192}
    return {"model": "tiny", "prompt": prompt, "raw": True, "stream": False, "options": options} | more


def _say(server: Server, prompt: str = "bada", tokens: int = 8, **more: Any) -> str:
    answer = server.post("/api/generate", _body(prompt, tokens, **more))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["response"])


def _weighed(server: Server, prompt: str = "bada", tokens: int = 8) -> None:
    """Have it say something, and wait until it has been weighed after that."""

    def times() -> int:
        return server.log.read_text().count(" of its own, at first ")

    before = times()
    _say(server, prompt, tokens)
    wait_until(lambda: times() > before, "the weighing")


def _settled(server: Server) -> None:
    """Let it have its first answers."""
    for _ in range(FIRST_USES + 1):
        _weighed(server)


def _replacements(server: Server) -> float:
    return server.figure("worker_replacements_total")


def test_a_worker_that_leaks_is_replaced_and_nobody_notices(tiny_home: Path, tmp_path: Path, guilty: Harm) -> None:
    home = tmp_path / "home"
    home.symlink_to(tiny_home)
    with serving(home, env=OFTEN | guilty.environment) as server:
        said = _say(server, keep_alive="10m")
        _settled(server)
        (first,) = server.workers()
        _weighed(server, LONG)
        guilty.leak(first.pid, LEAK_MEBIBYTES)
        wait_until(lambda: first.memory_info().rss > LEAK_MEBIBYTES << 20, "the leak")
        # One that has done nothing is not weighed: it takes an answer to be found out.
        threading.Event().wait(0.5)
        assert _replacements(server) == 0
        answers: list[str] = []
        is_over = threading.Event()

        def go_on_asking() -> None:
            while not is_over.wait(0.3):
                answers.append(_say(server))

        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(go_on_asking)
            wait_until(lambda: _replacements(server) == 1, "a fresh worker")
            wait_until(lambda: not first.is_running(), "the end of the old one")
            is_over.set()
            asking.result(60)
        assert set(answers) <= {said}
        assert _say(server) == said
        (fresh,) = server.workers()
        assert fresh.pid != first.pid
        assert server.client.get("/health").json()["cached_models"][0]["use_count"] >= len(answers) + 8
        assert server.figure("worker_deaths_total") == 0
        told = server.log.read_text()
        assert "tiny:latest is idle and gets a fresh worker: its own had grown to " in told
        assert " MiB after its first answers; the prompts that it remembered (" in told
        header = server.post("/api/generate", _body(LONG)).headers["x-mlx-ollama-prompt-cache"]
        assert header.startswith("reused=0"), "the fresh worker remembers nothing of the old one's prompts"


def test_its_time_goes_on_while_it_is_replaced(tiny_home: Path, tmp_path: Path, guilty: Harm) -> None:
    home = tmp_path / "home"
    home.symlink_to(tiny_home)
    with serving(home, env=OFTEN | guilty.environment) as server:
        _settled(server)
        (first,) = server.workers()
        guilty.leak(first.pid, LEAK_MEBIBYTES)
        wait_until(lambda: first.memory_info().rss > LEAK_MEBIBYTES << 20, "the leak")
        _say(server, keep_alive="5s")
        wait_until(lambda: _replacements(server) == 1, "a fresh worker")
        wait_until(lambda: server.client.get("/health").json()["models_cached"] == 0, "the end of its time", 20)
        assert server.post("/api/generate", _body("bada")).status_code == 200


def test_a_worker_in_use_is_left_alone(tiny_home: Path, tmp_path: Path, guilty: Harm) -> None:
    home = tmp_path / "home"
    home.symlink_to(tiny_home)
    with serving(home, env=OFTEN | guilty.environment) as server, ThreadPoolExecutor(1) as pool:
        _settled(server)
        (first,) = server.workers()
        long = pool.submit(_say, server, "keti", 3000)
        wait_until(lambda: server.client.get("/health").json()["active_requests"], "an answer under way")
        guilty.leak(first.pid, LEAK_MEBIBYTES)
        wait_until(lambda: first.memory_info().rss > LEAK_MEBIBYTES << 20, "the leak")
        threading.Event().wait(0.5)
        was_replaced = _replacements(server) > 0
        assert long.done() or not was_replaced
        assert long.result(60)
        wait_until(lambda: _replacements(server) == 1, "a fresh worker")


def test_a_worker_that_remembers_prompts_stays_and_so_do_they(tmp_path: Path) -> None:
    from tests.support.tiny import write_tiny_model  # noqa: PLC0415 - only some processes need mlx

    # Prompts that are quick to read, and large to remember: a token is 64 KiB.
    directory = write_tiny_model(tmp_path / "big-headed", head=2048)
    home = tmp_path / "home"
    assert run_cli("import", "tiny", str(directory), "--home", str(home)).returncode == 0
    with serving(home, env=OFTEN) as server:
        _settled(server)
        (worker,) = server.workers()
        before = worker.memory_info().rss
        for number in range(PROMPTS):
            _say(server, f"{number} " + LONG, 2)
        _weighed(server)
        assert worker.memory_info().rss - before > LEAST_BYTES, "they must be more than is cared for"
        assert _replacements(server) == 0
        assert server.workers() == [worker]
        header = server.post("/api/generate", _body("0 " + LONG)).headers["x-mlx-ollama-prompt-cache"]
        assert not header.startswith("reused=0")


def test_it_can_be_left_to_grow(tiny_home: Path, tmp_path: Path, guilty: Harm) -> None:
    home = tmp_path / "home"
    home.symlink_to(tiny_home)
    with serving(home, env=OFTEN | guilty.environment | {"MLX_API_WORKER_GROWTH": "0"}) as server:
        _say(server)
        (first,) = server.workers()
        guilty.leak(first.pid, LEAK_MEBIBYTES)
        wait_until(lambda: first.memory_info().rss > LEAK_MEBIBYTES << 20, "the leak")
        _say(server)
        threading.Event().wait(1.0)
        assert _replacements(server) == 0
        assert server.workers() == [first]
