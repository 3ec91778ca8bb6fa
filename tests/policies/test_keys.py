"""Keys: who gets in, and how the others are told."""

import json
from collections.abc import Iterator
from pathlib import Path

import anthropic
import httpx
import openai
import pytest

from mlx_ollama.settings import SettingsError, describe, load
from tests.support.server import Server, run_cli, serving, wait_until

pytestmark = pytest.mark.xdist_group("keys")

KEY = "sesame-0123456789"
CHAT = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "ba"}],
    "stream": False,
    "options": {"num_predict": 2},
}
TALK: list[anthropic.types.MessageParam] = [{"role": "user", "content": "ba"}]


@pytest.fixture(scope="module")
def guarded(tiny_home: Path) -> Iterator[Server]:
    with serving(tiny_home, env={"MLX_API_KEYS": f"other, {KEY}"}) as server:
        yield server


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY}"},
        {"x-api-key": KEY},
        {"x-api-key": "other"},
        {"authorization": "Bearer nonsense", "x-api-key": KEY},
    ],
)
def test_a_key_lets_in(guarded: Server, headers: dict[str, str]) -> None:
    assert guarded.client.get("/api/tags", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": f"Basic {KEY}"},
        {"authorization": KEY},
        {"authorization": "Bearer"},
        {"x-api-key": KEY[:-1]},
        {"x-api-key": f"{KEY}x"},
        {"x-api-key": "other," + KEY},
        {"x-api-key": "sch\u00f6n".encode().decode("latin-1")},
    ],
)
def test_nothing_else_does(guarded: Server, headers: dict[str, str]) -> None:
    sent = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    for path in ("/api/tags", "/api/ps", "/v1/models", "/health", "/status", "/metrics", "/nowhere"):
        refused = guarded.client.get(path, headers=sent)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/", "/api/version"])
def test_two_paths_stay_open(guarded: Server, path: str) -> None:
    assert guarded.client.get(path).status_code == 200
    assert guarded.client.head(path).status_code == 200


def test_each_dialect_has_its_words(guarded: Server) -> None:
    message = "this server needs a key: send one as Authorization: Bearer or x-api-key"
    assert guarded.post("/api/chat", CHAT).json() == {"error": message}
    openai_error = {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
    assert guarded.post("/v1/chat/completions", CHAT).json() == {"error": openai_error}
    told = guarded.post("/v1/messages", CHAT).json()
    assert (told["type"], told["error"]) == ("error", {"type": "authentication_error", "message": message})


def test_the_sdks_understand(guarded: Server) -> None:
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="wrong") as stranger:
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
        assert [model.id for model in stranger.with_options(api_key=KEY).models.list()] == ["tiny:latest"]
    with anthropic.Anthropic(base_url=guarded.url, api_key="wrong") as stranger:
        with pytest.raises(anthropic.AuthenticationError):
            stranger.messages.create(model="tiny", max_tokens=1, messages=TALK)
        said = stranger.with_options(api_key=KEY).messages.create(model="tiny", max_tokens=1, messages=TALK)
        assert said.usage.output_tokens == 1


def test_a_refusal_arrives_though_the_body_was_not_read(guarded: Server) -> None:
    body = json.dumps({**CHAT, "messages": [{"role": "user", "content": "x" * 3_000_000}]}).encode()
    for _ in range(5):
        refused = guarded.client.post("/api/chat", content=body)
        assert (refused.status_code, "needs a key" in refused.json()["error"]) == (401, True)
    assert guarded.client.get("/api/version").status_code == 200


def test_browsers_may_ask_first(guarded: Server) -> None:
    asking = {
        "origin": "http://localhost:3000",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, x-api-key",
    }
    preflight = guarded.client.options("/api/chat", headers=asking)
    assert preflight.status_code == 204
    allowed = preflight.headers["access-control-allow-headers"].lower().split(",")
    assert {"authorization", "x-api-key"} <= set(allowed)
    refused = guarded.client.get("/api/tags", headers={"origin": "http://localhost:3000"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "http://localhost:3000")


def test_keys_are_printed_nowhere(guarded: Server) -> None:
    printed = run_cli("config", env={"MLX_API_KEYS": f"other,{KEY}"})
    (row,) = [line.split() for line in printed.stdout.splitlines() if line.startswith("MLX_API_KEYS")]
    assert row[1:] == ["(2", "set)", "MLX_API_KEYS"]
    guarded.client.get("/api/tags", headers={"x-api-key": KEY})
    assert KEY not in printed.stdout + printed.stderr + guarded.log.read_text()
    assert KEY not in repr(load({}, {"MLX_API_KEYS": KEY}).settings)
    with pytest.raises(SettingsError) as caught:
        load({}, {"MLX_API_KEYS": "schl\u00fcssel"})
    assert "schl" not in str(caught.value)


def test_keys_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('keys = ["a", "b"]\n')
    assert load({"home": str(tmp_path)}, {}).settings.keys == ("a", "b")
    for wrong in ("4711", "[4711]", "true"):
        (tmp_path / "config.toml").write_text(f"keys = {wrong}\n")
        with pytest.raises(SettingsError, match="what it holds is no good for keys: not ") as caught:
            load({"home": str(tmp_path)}, {})
        assert "4711" not in str(caught.value).replace(str(tmp_path), "")


def test_without_keys_none_is_shown_as_set() -> None:
    rows = {variable: value for variable, value, *_ in describe(load({}, {}))}
    assert rows["MLX_API_KEYS"] == ""


@pytest.mark.parametrize(
    ("host", "keys", "warns"), [("0.0.0.0", "", True), ("0.0.0.0", KEY, False), ("127.0.0.1", "", False)]
)
def test_an_open_door_to_the_network_is_warned_of(tmp_path: Path, host: str, keys: str, warns: bool) -> None:
    with serving(tmp_path, "--host", host, env={"MLX_API_KEYS": keys}) as server:
        url = f"http://127.0.0.1:{server.port}/api/version"
        wait_until(lambda: httpx.get(url, trust_env=False).status_code == 200, "the first answer")
        assert ("MLX_API_KEYS" in server.log.read_text()) is warns
