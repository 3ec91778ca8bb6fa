"""Contexts over HTTP: what is cut, what is refused, and what never falls over (wire-spec 3.3, 9.3)."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mlx_ollama.options import Options
from mlx_ollama.protocol import Ready
from mlx_ollama.service import context_length
from tests.support.cli import import_model
from tests.support.server import Server, serving

TOO_LONG = "the prompt is longer than the context length currently available to the model"


def _ask(server: Server, prompt: str, **members: Any) -> dict[str, Any]:
    options = {"num_predict": 1} | members.pop("options", {})
    answer = server.post(
        "/api/generate",
        {"model": "tiny", "prompt": prompt, "raw": True, "stream": False, "options": options, **members},
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize(
    ("gpu_memory", "trained", "length"),
    [
        (0, 1 << 20, 4096),
        ((23 << 30) - 1, 1 << 20, 4096),
        (23 << 30, 1 << 20, 32_768),
        ((47 << 30) - 1, 1 << 20, 32_768),
        (47 << 30, 1 << 20, 262_144),
        (47 << 30, 131_072, 131_072),
        (47 << 30, 0, 262_144),
        (0, 2048, 2048),
    ],
)
def test_without_a_word_the_context_goes_by_the_gpus_memory(gpu_memory: int, trained: int, length: int) -> None:
    ready = Ready("gpu" if gpu_memory else "cpu", 1 << 30, gpu_memory, trained)
    assert context_length(Options(), ready, 0) == length
    assert context_length(Options(), ready, 1024) == 1024
    assert context_length(Options(num_ctx=512), ready, 1024) == 512


def test_num_ctx_is_a_cap_and_needs_no_reload(tiny: Server) -> None:
    _ask(tiny, "bada", options={"num_ctx": 64})
    (before,) = tiny.workers()
    answer = _ask(tiny, "bada", options={"num_ctx": 32, "num_predict": 500})
    (after,) = tiny.workers()
    assert before.pid == after.pid
    assert answer["done_reason"] == "length"
    assert answer["prompt_eval_count"] + answer["eval_count"] == 32
    assert tiny.client.get("/api/ps").json()["models"][0]["context_length"] == 32


@pytest.mark.parametrize("size", [4, 5, 16, 33])
def test_a_long_prompt_loses_its_middle(tiny: Server, size: int) -> None:
    answer = _ask(tiny, "bada zuzu " * 200, options={"num_ctx": size, "num_predict": 500, "num_keep": 2})
    assert answer["prompt_eval_count"] == 2 + (size - 2) // 2
    assert answer["prompt_eval_count"] + answer["eval_count"] == size


@pytest.mark.parametrize("members", [{"shift": False}, {"truncate": False}])
def test_a_long_prompt_that_must_stay_whole_is_refused(tiny: Server, members: dict[str, bool]) -> None:
    body = {"model": "tiny", "prompt": "bada " * 100, "raw": True, "options": {"num_ctx": 16}, **members}
    refused = tiny.post("/api/generate", body)
    assert refused.status_code == 400
    assert refused.json()["error"].startswith(TOO_LONG)


@pytest.mark.parametrize("num_ctx", [-5, 0, 1, 10**12])
@pytest.mark.parametrize("num_keep", [-1, 0, 10**9])
def test_no_number_is_too_odd(tiny: Server, num_ctx: int, num_keep: int) -> None:
    options = {"num_ctx": num_ctx, "num_keep": num_keep, "num_predict": 3}
    assert _ask(tiny, "bada zuzu " * 30, options=options)["eval_count"] >= 1


def test_a_conversation_loses_its_oldest_turns(tiny: Server) -> None:
    system = {"role": "system", "content": "momo"}
    turns = [{"role": "user" if at % 2 == 0 else "assistant", "content": f"bada {at} zuzu"} for at in range(81)]

    def count(messages: list[dict[str, str]], num_ctx: int) -> int:
        options = {"num_ctx": num_ctx, "num_predict": 1}
        body = {"model": "tiny", "messages": messages, "stream": False, "options": options}
        return int(tiny.post("/api/chat", body).json()["prompt_eval_count"])

    alone = count([system, turns[-1]], 8192)
    each = count([system, *turns[-3:]], 8192) - alone
    assert count([system, *turns], alone + 3 * each + 1) in range(alone + each, alone + 3 * each + 2)
    assert count([system, *turns], alone + 1) == alone


def test_a_context_goes_on_where_it_ended(tiny: Server) -> None:
    body = {"model": "tiny", "prompt": "bada", "stream": False, "options": {"num_predict": 5}}
    first = tiny.post("/api/generate", body).json()
    second = tiny.post("/api/generate", {**body, "context": first["context"]}).json()
    assert second["context"][: len(first["context"])] == first["context"]
    beyond = tiny.post("/api/generate", {**body, "context": [1] * (2**20 + 1)})
    assert (beyond.status_code, beyond.json()) == (400, {"error": "context of more than 1048576 tokens"})


def test_vision_models_are_refused_by_name(tiny_directory: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_directory, tmp_path / "seer")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "model_type": "mllama", "vision_config": {}}))
    home = tmp_path / "home"
    import_model(home, "seer", directory)
    with serving(home) as server:
        refused = server.post("/api/generate", {"model": "seer", "prompt": "x"})
        message = "the model type mllama needs a vision encoder, which is not supported: only text models are"
        assert (refused.status_code, refused.json()) == (500, {"error": message})
        images = {"model": "seer", "messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}
        assert server.post("/api/chat", images).status_code == 400
