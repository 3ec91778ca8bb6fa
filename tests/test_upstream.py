"""Two real servers: one without a model, and the other its upstream."""

import json
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import ollama
import openai
import pytest

from mlx_ollama.models.store import Store
from mlx_ollama.settings import SettingsError, load
from tests.support.cli import import_model
from tests.support.server import Server, serving, wait_until

pytestmark = pytest.mark.xdist_group("upstream")

WORDS = {"model": "tiny", "prompt": "bada", "options": {"num_predict": 20}}
TURNS = [{"role": "user", "content": "bada"}]
TALK = {"model": "tiny", "messages": TURNS, "options": {"num_predict": 5}}


@pytest.fixture(scope="module")
def front(tiny: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without models, whose upstream has one."""
    with serving(tmp_path_factory.mktemp("front"), env={"MLX_API_UPSTREAM": tiny.url}) as server:
        yield server


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_answers_are_the_upstreams(front: Server, tiny: Server) -> None:
    ours, theirs = front.post("/api/generate", WORDS), tiny.post("/api/generate", WORDS)
    assert ours.status_code == 200
    texts = [[json.loads(line)["response"] for line in answer.iter_lines()] for answer in (ours, theirs)]
    assert "".join(texts[0]) == "".join(texts[1])
    named = {name: value for name, value in ours.headers.items() if name not in ("date", "x-mlx-ollama-served-by")}
    assert named == {name: value for name, value in theirs.headers.items() if name != "date"}
    assert ours.headers["x-mlx-ollama-served-by"] == "upstream"
    assert "x-mlx-ollama-served-by" not in theirs.headers
    assert front.post("/api/show", {"model": "tiny"}).json() == tiny.post("/api/show", {"model": "tiny"}).json()
    assert front.client.get("/v1/models/tiny").json() == tiny.client.get("/v1/models/tiny").json()
    refused = [server.post("/api/embed", {"model": "tiny", "input": "x"}) for server in (front, tiny)]
    assert [(answer.status_code, answer.content) for answer in refused] == [(501, refused[1].content)] * 2
    missing = [server.post("/api/chat", {**TALK, "model": "nobodys"}) for server in (front, tiny)]
    assert [(answer.status_code, answer.content) for answer in missing] == [(404, missing[1].content)] * 2


def test_clients_see_one_server(front: Server) -> None:
    client = ollama.Client(host=front.url, trust_env=False)
    assert [model.model for model in client.list().models] == ["tiny:latest"]
    pieces = list(client.chat("tiny", TURNS, stream=True, options={"num_predict": 5}))
    assert pieces[-1].eval_count == 5
    assert [model.model for model in client.ps().models] == ["tiny:latest"]
    client._client.close()
    with openai.OpenAI(base_url=f"{front.url}/v1", api_key="none", max_retries=0) as sdk:
        assert [model.id for model in sdk.models.list()] == ["tiny:latest"]
        said = sdk.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "ba"}], max_tokens=3)
        assert said.usage
        assert said.usage.completion_tokens == 3


def test_a_model_that_cannot_be_loaded_here(tiny: Server, tiny_directory: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_directory, broken)
    home = tmp_path / "home"
    import_model(home, "tiny", broken)
    (broken / "model.safetensors").write_bytes(b"not weights")
    assert Store(home / "models").models()
    with serving(home, env={"MLX_API_UPSTREAM": tiny.url}) as server:
        answer = server.post("/api/generate", {**WORDS, "stream": False})
        assert (answer.status_code, answer.headers["x-mlx-ollama-served-by"]) == (200, "upstream")
        assert len(server.client.get("/api/tags").json()["models"]) == 1


def test_who_finds_no_room_here_goes_there(tiny: Server, tiny_directory: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    import_model(home, "tiny", tiny_directory)
    limits = {"MLX_API_PROFILE": "guarded", "MLX_API_MAX_CONCURRENT": "1", "MLX_API_UPSTREAM": tiny.url}
    with serving(home, env=limits) as server:
        long = {**WORDS, "options": {"num_predict": 100_000, "num_ctx": 8192}}
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
            with client.stream("POST", "/api/generate", json=long) as response:
                lines = response.iter_lines()
                next(lines)
                spilled = server.post("/api/generate", {**WORDS, "stream": False})
                assert response.headers["x-mlx-ollama-served-by"] == "mlx"
            assert (spilled.status_code, spilled.headers["x-mlx-ollama-served-by"]) == (200, "upstream")
            assert spilled.json()["eval_count"] == 20


def test_a_client_that_leaves_frees_the_upstream(front: Server, tiny: Server) -> None:
    tiny.post("/api/generate", {"model": "tiny"})
    (worker,) = tiny.workers()
    body = {**WORDS, "options": {"num_predict": 100_000, "num_ctx": 8192}}
    with httpx.Client(base_url=front.url, timeout=60, trust_env=False) as client:
        with client.stream("POST", "/api/generate", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            wait_until(lambda: worker.cpu_percent(0.1) > 20, "decoding")
        wait_until(lambda: worker.cpu_percent(0.2) < 10, "the end of decoding")


def test_a_drain_ends_the_upstreams_answers_too(tiny: Server, tmp_path: Path) -> None:
    body = {**WORDS, "options": {"num_predict": 100_000, "num_ctx": 8192}}
    with serving(tmp_path, "--drain", "0.3", env={"MLX_API_UPSTREAM": tiny.url}) as server:
        with httpx.stream("POST", f"{server.url}/api/generate", json=body, timeout=60, trust_env=False) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            *_, last = lines
        assert f"the upstream {tiny.url} broke off its answer" in json.loads(last)["error"]
        assert server.process.wait(30) == 0


def test_two_servers_that_point_at_each_other(tmp_path: Path) -> None:
    one, two = _free_port(), _free_port()
    with (
        serving(tmp_path / "one", "--port", str(one), env={"MLX_API_UPSTREAM": f"http://127.0.0.1:{two}"}) as first,
        serving(tmp_path / "two", "--port", str(two), env={"MLX_API_UPSTREAM": f"http://127.0.0.1:{one}"}) as second,
    ):
        for server in (first, second):
            missing = server.post("/api/chat", TALK)
            assert (missing.status_code, missing.json()) == (404, {"error": "model 'tiny' not found"})
            assert server.client.get("/api/tags").json() == {"models": []}
        assert second.log.read_text().count("POST /api/chat 404") == 2


def test_an_upstream_that_goes_away(tmp_path: Path, tiny_directory: Path) -> None:
    home = tmp_path / "home"
    import_model(home, "tiny", tiny_directory)
    with serving(home) as back, serving(tmp_path / "front", env={"MLX_API_UPSTREAM": back.url}) as front:
        assert front.post("/api/generate", {"model": "tiny"}).status_code == 200
        body = {**WORDS, "options": {"num_predict": 100_000, "num_ctx": 8192}}
        with front.client.stream("POST", "/api/generate", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            back.process.send_signal(signal.SIGKILL)
            *_, last = lines
        assert f"and the upstream {back.url} broke off its answer" in json.loads(last)["error"]
        back.process.wait(10)
        refused = front.post("/api/chat", TALK)
        assert refused.status_code == 502
        assert refused.json()["error"].startswith(
            f"model 'tiny' not found, and the upstream {back.url} does not answer ("
        )
        assert front.client.get("/api/tags").json() == {"models": []}


@pytest.mark.parametrize(
    "address", ["127.0.0.1:11434", "ftp://x", "http://", "http://u:p@x", "http://x?y", "http://x:99999", "http://x#y"]
)
def test_the_setting_is_an_address(address: str) -> None:
    with pytest.raises(SettingsError, match="must be http://host:port"):
        load({}, {"MLX_API_UPSTREAM": address})
