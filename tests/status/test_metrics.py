"""Figures as Prometheus reads them: its own parser, on the answers of live servers."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlx_ollama import errors
from mlx_ollama.status.metrics import MOST_MODELS, Metrics, policy_of
from mlx_ollama.types import Usage
from tests.support.gateway import Dial, running
from tests.support.server import Fatal, Server, serving

pytestmark = pytest.mark.xdist_group("metrics")

Sample = tuple[str, frozenset[tuple[str, str]]]


def _samples(text: str) -> dict[Sample, float]:
    families = text_string_to_metric_families(text)
    return {
        (sample.name.removeprefix("mlx_ollama_"), frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def _figures(server: Server) -> dict[Sample, float]:
    answer = server.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return _samples(answer.text)


def _key(name: str, **labels: str) -> Sample:
    return name, frozenset(labels.items())


@pytest.fixture(scope="module")
def server(tiny_home: Path) -> Iterator[Server]:
    """A server of its own: what it counts shall be what these tests did."""
    limits = {"MLX_API_PROFILE": "guarded", "MLX_API_RATE_LIMIT": "6", "MLX_API_RATE_WINDOW": "600"}
    with serving(tiny_home, env=limits) as server:
        yield server


def test_requests_tokens_loads_and_refusals_are_counted(server: Server) -> None:
    body = {"model": "tiny", "prompt": "bada", "stream": False, "options": {"num_predict": 7}}
    answers = [server.post("/api/generate", body).json() for _ in range(2)]
    messages = [{"role": "user", "content": "ra"}]
    lines = server.lines("/api/chat", {"model": "tiny", "messages": messages, "options": {"num_predict": 5}})
    assert server.post("/api/generate", {"model": "missing", "prompt": "x"}).status_code == 404
    assert server.post("/api/generate", {"model": "tiny", "prompt": "x", "format": 5}).status_code == 500
    assert server.post("/api/generate", {"model": "tiny", "keep_alive": 0}).json()["done_reason"] == "unload"
    assert server.post("/api/generate", {"model": "missing", "prompt": "x"}).status_code == 404
    assert server.post("/api/generate", body).status_code == 429
    for path in ("/never", "/heard/of", "/v1/models/tiny", "/v1/models/other"):
        server.client.get(path)
    figures = _figures(server)

    generate = {"endpoint": "/api/generate"}
    assert figures[_key("requests_total", **generate, outcome="ok")] == 3
    assert figures[_key("requests_total", **generate, outcome="client_error")] == 2
    assert figures[_key("requests_total", **generate, outcome="server_error")] == 1
    assert figures[_key("requests_total", **generate, outcome="refused")] == 1
    assert figures[_key("requests_total", endpoint="/api/chat", outcome="ok")] == 1
    assert figures[_key("requests_total", endpoint="other", outcome="client_error")] == 2
    assert figures[_key("requests_total", endpoint="/v1/models/{model}", outcome="ok")] == 1
    assert figures[_key("refusals_total", policy="rate_limit")] == 1

    whole = [*answers, lines[-1]]
    prompts, generated = (sum(answer[name] for answer in whole) for name in ("prompt_eval_count", "eval_count"))
    assert figures[_key("tokens_total", model="tiny:latest", kind="prompt")] == prompts
    assert figures[_key("tokens_total", model="tiny:latest", kind="generated")] == generated == 19
    assert figures[_key("time_to_first_token_seconds_count", model="tiny:latest")] == 3
    assert figures[_key("time_to_first_token_seconds_sum", model="tiny:latest")] > 0

    assert figures[_key("model_loads_total", outcome="loaded")] == 1
    assert figures[_key("model_load_seconds_total")] > 0
    assert figures[_key("evictions_total", reason="request")] == 1
    assert figures[_key("models_loaded")] == 0
    assert figures[_key("active_requests")] == figures[_key("queued_requests")] == 0
    assert figures[_key("max_concurrent_requests")] == 5
    assert 0 < figures[_key("memory_used_bytes")] < figures[_key("memory_total_bytes")]
    assert not [name for name, _ in figures if name.startswith(("process_", "python_"))]


def test_hang_ups_and_broken_answers_have_outcomes_of_their_own(tiny_home: Path) -> None:
    endless = {"model": "tiny", "prompt": "bada", "options": {"num_predict": 100_000, "num_ctx": 8192}}
    with serving(tiny_home) as server:
        with httpx.stream("POST", f"{server.url}/api/generate", json=endless, trust_env=False, timeout=60) as response:
            next(response.iter_lines())
        with server.client.stream("POST", "/api/generate", json=endless) as response:
            fate = Fatal(server)
            lines = []
            for line in response.iter_lines():
                fate.seen()
                lines.append(json.loads(line))
            assert "error" in lines[-1]
        figures = _figures(server)
        assert figures[_key("requests_total", endpoint="/api/generate", outcome="gone")] == 1
        assert figures[_key("requests_total", endpoint="/api/generate", outcome="broken")] == 1
        assert figures[_key("worker_deaths_total")] == 2
        assert figures[_key("retried_requests_total")] == figures[_key("resumed_streams_total")] == 1


def test_memory_is_told_as_health_has_it_and_refusals_of_memory_count(tmp_path: Path, tiny_home: Path) -> None:
    async def look() -> dict[Sample, float]:
        async with running(tiny_home, Dial(96.0)) as (client, _):
            assert (await client.post("/api/generate", json={"model": "tiny"})).status_code == 503
            return _samples((await client.get("/metrics")).text)

    figures = asyncio.run(look())
    assert figures[_key("memory_used_percent")] == 96.0
    assert figures[_key("refusals_total", policy="memory")] == 1
    assert figures[_key("model_loads_total", outcome="refused")] == 1
    assert figures[_key("model_loads_total", outcome="failed")] == 0


def test_labels_of_models_are_bounded(tmp_path: Path) -> None:
    async def look() -> str:
        async with running(tmp_path, Dial()) as (_, gateway):
            metrics = Metrics(gateway.monitor)
            for number in range(MOST_MODELS + 10):
                metrics.answered(f"m{number}", Usage(1, 1, 2, 1))
            metrics.answered("m0", Usage(1, 1, 2, 1))
            return metrics.text().decode()

    figures = _samples(asyncio.run(look()))
    models = {dict(labels)["model"] for name, labels in figures if name == "tokens_total"}
    assert models == {"other", *(f"m{number}" for number in range(MOST_MODELS))}
    assert figures[_key("tokens_total", model="other", kind="generated")] == 20
    assert figures[_key("tokens_total", model="m0", kind="prompt")] == 2


@pytest.mark.parametrize(
    ("error", "policy"),
    [
        (errors.NoRoom("no", retry_after=1), "memory"),
        (errors.OutOfMemory("no"), "memory"),
        (errors.Overloaded("no", setting="x", retry_after=1), "concurrency"),
        (errors.RateLimited(retry_after=1), "rate_limit"),
        (errors.DeadlinePassed(1), "deadline"),
        (errors.TooLarge(2, 1), "body_size"),
        (errors.TooSlow("no"), "body_timeout"),
        (errors.ShuttingDown(), "drain"),
        (errors.Unauthorized(), "keys"),
        (errors.LimitReached("an operator's own"), "other"),
        (errors.WorkerDied("no"), None),
        (errors.InvalidRequest("no"), None),
        (None, None),
    ],
)
def test_refusals_have_the_name_of_their_policy(error: Exception | None, policy: str | None) -> None:
    assert policy_of(error) == policy
