"""A worker that waits for its model, and models that are loaded before anybody asks."""

import time
from pathlib import Path

import pytest

from tests.support.cli import import_model
from tests.support.server import Server, serving, wait_until

WARM = {"MLX_API_SPARE": "1", "MLX_API_SPARE_PAUSE": "0.1"}
ASK = {"model": "tiny", "prompt": "bada", "stream": False, "options": {"num_predict": 3}}


@pytest.fixture
def home(tiny_directory: Path, tmp_path: Path) -> Path:
    home = tmp_path / "home"
    import_model(home, "tiny", tiny_directory, "--parameter", "temperature=0")
    return home


def _workers(server: Server) -> set[int]:
    return {process.pid for process in server.workers()}


def test_the_spare_becomes_the_models_worker_and_the_next_one_is_made(home: Path) -> None:
    with serving(home, env=WARM) as server:
        (spare,) = wait_until(lambda: _workers(server), "a spare worker")
        assert server.client.get("/api/ps").json() == {"models": []}
        assert server.post("/api/generate", ASK).json()["eval_count"] == 3
        wait_until(lambda: len(_workers(server)) == 2, "the next spare")
        assert spare in _workers(server)
        assert server.stop() == 0
        assert not _workers_of(server)


def test_a_spare_that_died_is_nothing_to_wait_for(home: Path) -> None:
    with serving(home, env=WARM) as server:
        (spare,) = wait_until(server.workers, "a spare worker")
        spare.kill()
        wait_until(lambda: not spare.is_running(), "its end")
        assert server.post("/api/generate", ASK).json()["eval_count"] == 3
        assert spare.pid not in _workers(server)


@pytest.mark.parametrize("pause", [0.0, 0.002, 0.01])
def test_a_spare_that_dies_as_it_is_taken_is_replaced(home: Path, pause: float) -> None:
    with serving(home, env=WARM) as server:
        (spare,) = wait_until(server.workers, "a spare worker")
        spare.kill()
        time.sleep(pause)
        answer = server.post("/api/generate", ASK)
        assert answer.json().get("eval_count") == 3, answer.text


def test_a_model_that_cannot_be_loaded_by_the_spare_says_why(home: Path, tmp_path: Path) -> None:
    with serving(home, env=WARM) as server:
        wait_until(lambda: _workers(server), "a spare worker")
        server.post("/api/create", {"model": "broken", "from": "tiny", "renderer": "nope", "stream": False})
        refused = server.post("/api/generate", {**ASK, "model": "broken"})
        assert refused.json() == {"error": 'unknown renderer "nope"'}
        assert server.post("/api/generate", ASK).status_code == 200


def test_without_it_there_is_no_worker_before_there_is_a_model(home: Path) -> None:
    with serving(home) as server:
        assert server.client.get("/api/tags").status_code == 200
        assert not _workers(server)
        assert server.post("/api/generate", ASK).status_code == 200
        assert len(_workers(server)) == 1


def test_models_are_loaded_when_the_server_starts(home: Path) -> None:
    with serving(home, env={"MLX_API_PRELOAD": "nope, TINY"}) as server:
        wait_until(lambda: server.client.get("/api/ps").json()["models"], "the preloaded model")
        (loaded,) = server.client.get("/api/ps").json()["models"]
        assert loaded["name"] == "tiny:latest"
        assert "nope is not preloaded: model 'nope' not found" in server.log.read_text()


def _workers_of(server: Server) -> list[int]:
    return [] if server.process.poll() is not None else sorted(_workers(server))
