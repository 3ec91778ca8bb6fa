"""The demo model through the doors that people use: HTTP and the genuine Python client."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import ollama
import pytest

from tests.support.server import Server, wait_until

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("demo")]

MODEL = "smollm2:135m"
QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
ASK = [{"role": "user", "content": QUESTION}]


@pytest.fixture
def client(demo: Server) -> Iterator[ollama.Client]:
    client = ollama.Client(host=demo.url, trust_env=False)
    yield client
    client._client.close()


def test_the_answer_streamed_and_not(demo: Server) -> None:
    lines = demo.lines("/api/chat", {"model": MODEL, "messages": ASK})
    assert "".join(line["message"]["content"] for line in lines) == ANSWER
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert lines[-1]["message"] == {"role": "assistant", "content": ""}
    assert all("eval_count" not in line and "total_duration" not in line for line in lines[:-1])
    whole = demo.post("/api/chat", {"model": MODEL, "messages": ASK, "stream": False}).json()
    assert whole["message"]["content"] == ANSWER
    assert (whole["prompt_eval_count"], whole["eval_count"], whole["done_reason"]) == (16, 8, "stop")


def test_durations_are_measured(demo: Server) -> None:
    body = {"model": MODEL, "prompt": QUESTION, "stream": False}
    whole = demo.post("/api/generate", body)
    figures = whole.json()
    parts = figures["load_duration"] + figures["prompt_eval_duration"] + figures["eval_duration"]
    assert 0.5 * figures["total_duration"] < parts <= figures["total_duration"]
    assert figures["total_duration"] <= whole.elapsed.total_seconds() * 1e9


def test_context_goes_round(demo: Server) -> None:
    short = {"stream": False, "options": {"num_predict": 6}}
    first = demo.post("/api/generate", {"model": MODEL, "prompt": "My name is Ada.", **short}).json()
    second = demo.post(
        "/api/generate", {"model": MODEL, "prompt": "Again.", "context": first["context"], **short}
    ).json()
    assert second["context"][: len(first["context"])] == first["context"]
    assert second["prompt_eval_count"] > len(first["context"])


def test_the_contexts_are_the_recorded_ones(demo: Server) -> None:
    whole = demo.post("/api/generate", {"model": MODEL, "prompt": QUESTION, "stream": False}).json()
    prompt = [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198]
    assert whole["context"] == [*prompt, 504, 3575, 282, 4649, 314, 7042, 30]
    cut = demo.post(
        "/api/generate", {"model": MODEL, "prompt": QUESTION, "stream": False, "options": {"stop": [" Paris"]}}
    ).json()
    assert cut["context"] == [*prompt, 504, 3575, 282, 4649, 314]
    assert cut["eval_count"] == 6


def test_raw_system_template_and_names(demo: Server) -> None:
    def ask(**fields: Any) -> Any:
        body = {"model": MODEL, "stream": False, "options": {"num_predict": 6}, **fields}
        return demo.post("/api/generate", body).json()

    raw = ask(prompt="The capital of France is", raw=True)
    assert raw["response"].startswith(" Paris."), "the leading space is a part of the text"
    assert "context" not in raw
    assert ask(prompt=QUESTION, system="You answer in one word.")["prompt_eval_count"] == 27
    templated = ask(prompt=QUESTION, template="{{ .System }} Q: {{ .Prompt }} A:")
    assert templated["prompt_eval_count"] == 11
    for name in ("SmolLM2:135M", "library/smollm2:135m", "registry.ollama.ai/library/smollm2:135m"):
        assert ask(model=name, prompt=QUESTION)["model"] == name
    assert ask(prompt=QUESTION, template="{{ .X")["error"] == "template: :1: unclosed action"


def test_the_prompt_can_be_seen(demo: Server) -> None:
    body = {"model": MODEL, "messages": [{"role": "USER", "content": "a <b>"}], "_debug_render_only": True}
    shown = demo.post("/api/chat", body)
    assert shown.headers["content-type"] == "application/json; charset=utf-8"
    assert "\\u003c|im_start|\\u003euser" in shown.text
    assert shown.json()["message"] == {"role": "", "content": ""}
    assert shown.json()["_debug_info"]["rendered_template"].endswith("<|im_start|>assistant\n")


def test_one_line_is_one_flush_and_no_character_is_cut(demo: Server) -> None:
    body = {"model": MODEL, "prompt": "Say: 😀é漢字", "options": {"num_predict": 12, "temperature": 1.5, "seed": 3}}
    with httpx.stream("POST", f"{demo.url}/api/generate", json=body, timeout=60, trust_env=False) as response:
        pieces = list(response.iter_raw())
    assert len(pieces) > 2
    for piece in pieces:
        assert piece.endswith(b"\n")
        for line in piece.splitlines():
            json.loads(line)


def test_keep_alive_and_unload(demo: Server) -> None:
    def expiry() -> float:
        (model,) = demo.client.get("/api/ps").json()["models"]
        return (datetime.fromisoformat(model["expires_at"]) - datetime.now(UTC)).total_seconds()

    loaded = demo.post("/api/generate", {"model": MODEL, "keep_alive": "10m"})
    assert loaded.json()["done_reason"] == "load"
    assert 590 < expiry() <= 600
    demo.post("/api/generate", {"model": MODEL, "prompt": "x", "stream": False, "options": {"num_predict": 1}})
    assert 590 < expiry() <= 600, "an omitted keep_alive leaves the last one"
    demo.post("/api/chat", {"model": MODEL, "messages": [], "keep_alive": 3600})
    assert 3590 < expiry() <= 3600
    demo.post("/api/generate", {"model": MODEL, "keep_alive": -1})
    assert expiry() > 200 * 365 * 86400
    assert demo.post("/api/generate", {"model": MODEL, "keep_alive": 0}).json()["done_reason"] == "unload"
    wait_until(lambda: not demo.client.get("/api/ps").json()["models"], "unloading")
    wait_until(lambda: not demo.workers(), "the worker's end")
    demo.post("/api/generate", {"model": MODEL, "keep_alive": "5m"})


def test_a_keep_alive_in_passing_expires(demo: Server) -> None:
    body = {"model": MODEL, "prompt": "x", "stream": False, "keep_alive": "300ms", "options": {"num_predict": 1}}
    assert demo.post("/api/generate", body).json()["done"]
    wait_until(lambda: not demo.client.get("/api/ps").json()["models"], "expiry")
    demo.post("/api/generate", {"model": MODEL, "keep_alive": "5m"})


def test_sync_client(client: ollama.Client) -> None:
    assert client.chat(MODEL, ASK).message.content == ANSWER
    assert client.generate(MODEL, QUESTION).response == ANSWER
    parts = list(client.chat(MODEL, ASK, stream=True))
    assert "".join(part.message.content or "" for part in parts) == ANSWER
    assert parts[-1].done_reason == "stop"
    generated = list(client.generate(MODEL, QUESTION, stream=True, options={"num_predict": 3}))
    assert generated[-1].done_reason == "length"
    assert generated[-1].eval_count == 3


def test_sync_client_reads_what_there_is(client: ollama.Client) -> None:
    (listed,) = client.list().models
    assert (listed.model, listed.details.family if listed.details else "") == (MODEL, "llama")
    shown = client.show(MODEL)
    assert shown.capabilities == ["completion"]
    assert (shown.modelinfo or {})["llama.context_length"] == 8192
    assert "<|im_start|>" in (shown.template or "")
    (running,) = client.ps().models
    assert (running.model, running.context_length) == (MODEL, 4096)


def test_sync_client_gets_errors_as_it_expects(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'absent' not found") as missing:
        client.chat("absent", ASK)
    assert missing.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="does not support thinking") as refused:
        client.chat(MODEL, ASK, think=True)
    assert refused.value.status_code == 400


def test_async_client(demo: Server) -> None:
    async def talk() -> tuple[str | None, str]:
        client = ollama.AsyncClient(host=demo.url, trust_env=False)
        whole = await client.chat(MODEL, ASK)
        pieces = [part.message.content or "" async for part in await client.chat(MODEL, ASK, stream=True)]
        await client._client.aclose()
        return whole.message.content, "".join(pieces)

    assert asyncio.run(talk()) == (ANSWER, ANSWER)


def test_ten_clients_at_once(demo: Server) -> None:
    async def ask(client: httpx.AsyncClient) -> str:
        answer = await client.post("/api/chat", json={"model": MODEL, "messages": ASK, "stream": False})
        return str(answer.json()["message"]["content"])

    async def all_of_them() -> list[str]:
        async with httpx.AsyncClient(base_url=demo.url, timeout=120, trust_env=False) as client:
            return await asyncio.gather(*(ask(client) for _ in range(10)))

    assert asyncio.run(all_of_them()) == [ANSWER] * 10


def test_a_seed_holds_in_a_changing_batch(demo: Server) -> None:
    def body(at: int, seed: int) -> dict[str, Any]:
        options = {"seed": seed, "temperature": 1.2, "num_predict": 6 + 5 * (at % 3)}
        return {"model": MODEL, "prompt": f"Story {at} begins:", "raw": True, "stream": False, "options": options}

    async def together(seeds: list[int]) -> list[str]:
        async with httpx.AsyncClient(base_url=demo.url, timeout=120, trust_env=False) as client:
            asked = [client.post("/api/generate", json=body(at, seed)) for at, seed in enumerate(seeds)]
            return [answer.json()["response"] for answer in await asyncio.gather(*asked)]

    first, second = asyncio.run(together([7, 8, 9, 10])), asyncio.run(together([7, 1, 9, 2, 3, 4]))
    alone = [demo.post("/api/generate", body(at, seed)).json()["response"] for at, seed in ((0, 7), (2, 9))]
    assert [first[0], first[2]] == [second[0], second[2]] == alone
    assert first[1] != second[1]
