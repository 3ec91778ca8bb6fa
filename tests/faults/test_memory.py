"""Short memory: with an injected gauge and real workers, and with allocations that really fail."""

import asyncio
import json
import logging
import re
import shutil
import signal
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from mlx_ollama.app import Gateway
from mlx_ollama.memory.gauge import Reading
from mlx_ollama.policies.eviction import IdleModel
from mlx_ollama.routes import PROMPT_CACHE_HEADER
from tests.support.embedders import write_tiny_encoder
from tests.support.gateway import Dial, running, until
from tests.support.processes import children
from tests.support.server import run_cli, serving, wait_until

ENCODERS = ("a", "b", "c")
GREEDY_TEMPLATE = (
    "{% for message in messages %}{% if message.content == 'burst' %}{{ 'x' * (10 ** 15) }}{% endif %}"
    "{{ message.content }}{% endfor %}"
)
"""Asks Python for a petabyte if it is told to."""


class Alphabet:
    """A chooser of an operator's own: by name, backwards; `a` is pinned; and it dreams of models that are not there."""

    def order(self, idle: Sequence[IdleModel]) -> Sequence[IdleModel]:
        dreamt = IdleModel("sha256:dream", "dream", 1, 1, 1.0, 1.0, 1.0)
        return [dreamt, *sorted((model for model in idle if model.name != "a:latest"), key=lambda m: m.name)[::-1]]


class Broken:
    def order(self, idle: Sequence[IdleModel]) -> Sequence[IdleModel]:
        raise ZeroDivisionError


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, tiny_directory: Path) -> Path:
    """A home with three encoders, whose workers start quickly, and the tiny model."""
    home = tmp_path_factory.mktemp("many")
    for name in ENCODERS:
        encoder = write_tiny_encoder(tmp_path_factory.mktemp("encoders") / name)
        assert run_cli("import", name, str(encoder), "--home", str(home)).returncode == 0
    made = run_cli("import", "tiny", str(tiny_directory), "--home", str(home), "--parameter", "temperature=0")
    assert made.returncode == 0
    return home


def _run(
    home: Path, story: Callable[[httpx.AsyncClient, Gateway, Dial], Coroutine[Any, Any, None]], **settings: Any
) -> None:
    async def told() -> None:
        dial = Dial()
        async with running(home, dial, **settings) as (client, gateway):
            await story(client, gateway, dial)

    asyncio.run(told())


async def _embed(client: httpx.AsyncClient, *models: str) -> None:
    for model in models:
        answer = await client.post("/api/embed", json={"model": model, "input": "ba be"})
        assert answer.status_code == 200, answer.text


async def _cached(client: httpx.AsyncClient) -> list[str]:
    health = (await client.get("/health")).json()
    return sorted(model["name"].removesuffix(":latest") for model in health["cached_models"])


async def _until_cached(client: httpx.AsyncClient, *names: str) -> None:
    async def is_so() -> bool:
        return await _cached(client) == sorted(names)

    await until(is_so, f"only {names} in memory")


def _pids(gateway: Gateway) -> set[int]:
    return {resident.link.process.pid for resident in gateway.pool.residents() if resident.link}


def test_critical_unloads_the_least_recently_used_and_an_emergency_the_rest(many: Path) -> None:
    async def story(client: httpx.AsyncClient, gateway: Gateway, dial: Dial) -> None:
        await _embed(client, *ENCODERS, "a")
        assert await _cached(client) == ["a", "b", "c"]
        dial.percent = 94.9
        await asyncio.sleep(0.2)
        assert await _cached(client) == ["a", "b", "c"]
        dial.percent = 95.0
        await _until_cached(client, "a")
        dial.percent = 98.0
        await _until_cached(client)
        assert not _pids(gateway)
        assert gateway.pool.tally.unloads == {"memory": 3}

    _run(many, story)


def test_the_spare_worker_goes_before_idle_models_and_comes_back_when_all_is_calm(many: Path) -> None:
    async def story(client: httpx.AsyncClient, gateway: Gateway, dial: Dial) -> None:
        def spares() -> set[int]:
            return {child.pid for child in children(psutil.Process(), "mlx_ollama.worker")} - _pids(gateway)

        async def is_warm() -> bool:
            return bool(spares())

        async def is_cold() -> bool:
            return not spares()

        await _embed(client, "a", "b")
        await until(is_warm, "a spare worker")

        def read() -> Any:
            # It alone is what makes memory critical.
            return Reading(int(dial.total * (96 if spares() else 90) / 100), dial.total)

        calm = dial.read
        dial.read = read  # type: ignore[method-assign]
        await until(is_cold, "its end")
        assert await _cached(client) == ["a", "b"]
        # Between warning and critical there is no time for luxuries, though models are loaded and make one want it.
        await _embed(client, "c")
        await asyncio.sleep(0.3)
        assert not spares()
        dial.read = calm  # type: ignore[method-assign]
        await until(is_warm, "another one")
        dial.percent = 98.0
        await until(is_cold, "its end, too")
        await _until_cached(client)

    _run(many, story, spare=True, keep_count=0)


def test_models_in_use_are_never_touched_and_go_when_they_are_idle(many: Path) -> None:
    async def story(client: httpx.AsyncClient, gateway: Gateway, dial: Dial) -> None:
        await _embed(client, "a")
        await client.post("/api/generate", json={"model": "tiny"})
        body = {"model": "tiny", "prompt": "bada", "stream": False, "options": {"num_predict": 1500, "num_ctx": 8192}}
        asking = asyncio.create_task(client.post("/api/generate", json=body))

        async def is_busy() -> bool:
            return bool((await client.get("/health")).json()["active_model_requests"])

        await until(is_busy, "an answer under way")
        dial.percent = 99.0
        await _until_cached(client, "tiny")
        assert not asking.done()
        assert (await asking).json()["eval_count"] == 1500
        await _until_cached(client)

    _run(many, story)


def test_a_model_that_loads_is_never_touched(many: Path) -> None:
    async def story(client: httpx.AsyncClient, gateway: Gateway, dial: Dial) -> None:
        await _embed(client, "a")
        loading = asyncio.create_task(client.post("/api/generate", json={"model": "tiny", "keep_alive": "10m"}))

        async def has_begun() -> bool:
            return any(resident.link for resident in gateway.pool.loading())

        await until(has_begun, "a load under way")
        dial.percent = 99.0
        await _until_cached(client, "tiny")
        assert gateway.pool.loading()
        assert not loading.done()
        dial.percent = 10.0
        assert (await loading).status_code == 200
        assert await _cached(client) == ["tiny"]
        assert gateway.pool.tally.unloads == {"memory": 1}

    _run(many, story)


def test_workers_on_a_gpu_are_told_their_shares_as_models_come_and_go(
    many: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One is taken here for having a GPU; it hears what it is told, though it can do nothing with it."""

    def told() -> list[int]:
        found = re.findall(r"this worker's share is (\d+) MiB", caplog.text)
        return [int(share) for share in found if share != "0"]

    async def story(client: httpx.AsyncClient, gateway: Gateway, dial: Dial) -> None:
        await client.post("/api/generate", json={"model": "tiny"})
        (resident,) = gateway.pool.residents()
        assert resident.ready
        resident.ready = replace(resident.ready, gpu_memory=1000 << 20)

        async def heard() -> bool:
            return len(told()) > 1

        await _embed(client, "a")
        await until(heard, "two shares: while the other model loads, and when it turns out to be on a CPU")
        while_loading, after = told()
        assert while_loading < after == 1000

    with caplog.at_level(logging.DEBUG):
        _run(many, story, log_level="debug")


def test_an_operators_chooser_is_asked_and_cannot_reach_further(many: Path) -> None:
    async def story(client: httpx.AsyncClient, gateway: Gateway, dial: Dial) -> None:
        await _embed(client, "c", "b", "a")
        dial.percent = 96.0
        await _until_cached(client, "a")

    _run(many, story, eviction=f"{__name__}:Alphabet", keep_count=0)


def test_a_chooser_that_fails_is_replaced(many: Path) -> None:
    async def story(client: httpx.AsyncClient, gateway: Gateway, dial: Dial) -> None:
        await _embed(client, "c", "b")
        dial.percent = 96.0
        await _until_cached(client, "b")

    _run(many, story, eviction=f"{__name__}:Broken")


def test_a_load_without_room_is_refused_in_the_words_of_the_dialect(many: Path) -> None:
    async def story(client: httpx.AsyncClient, gateway: Gateway, dial: Dial) -> None:
        await _embed(client, "a")
        dial.percent = 95.0
        refused = await client.post("/api/generate", json={"model": "tiny", "prompt": "x"})
        assert refused.status_code == 503
        assert set(refused.json()) == {"error"}
        words = refused.json()["error"]
        assert words.startswith("not enough memory to load tiny:latest: 0.00 GB for it (")
        assert words.endswith("95.00 GB in use = 95.00 GB, and 95.00 GB is the most (95 % of 100.00 GB)")
        assert refused.headers["x-mlx-ollama-setting"] == "MLX_API_MEMORY_CRITICAL"
        assert refused.headers["retry-after"] == "1"
        messages = [{"role": "user", "content": "x"}]
        openai = await client.post("/v1/chat/completions", json={"model": "tiny", "messages": messages})
        assert openai.status_code == 503
        assert openai.json()["error"]["message"] == words
        # The one that was idle has made room, in vain.
        assert await _cached(client) == []
        dial.percent = 50.0
        await _embed(client, "b")
        assert (gateway.pool.tally.refused_loads, gateway.pool.tally.failed_loads) == (2, 0)

    _run(many, story, memory_interval=0.5)


def test_an_idle_model_makes_room_for_another(many: Path) -> None:
    async def story(client: httpx.AsyncClient, gateway: Gateway, dial: Dial) -> None:
        await _embed(client, "a", "b")
        kilobytes = gateway.pool.residents()[0].ready
        assert kilobytes

        def read() -> Any:
            # Each model in memory counts with what its worker says.
            held = sum(resident.ready.weight_bytes for resident in gateway.pool.residents() if resident.ready)
            return type(Dial().read())(held, int(kilobytes.weight_bytes * 2.9))

        dial.read = read  # type: ignore[method-assign]
        await _embed(client, "c")
        assert await _cached(client) == ["b", "c"]

    _run(many, story, memory_interval=60)


def test_answers_count_until_they_have_grown_and_are_not_begun_where_they_cannot(many: Path) -> None:
    async def story(client: httpx.AsyncClient, gateway: Gateway, dial: Dial) -> None:
        def body(limit: int) -> dict[str, Any]:
            options = {"num_predict": limit, "num_ctx": 8192}
            return {"model": "tiny", "prompt": "x" * 300, "stream": False, "options": options}

        await client.post("/api/generate", json={"model": "tiny"})
        (resident,) = gateway.pool.residents()
        assert resident.growth == 0
        asking = [asyncio.create_task(client.post("/api/generate", json=body(600))) for _ in range(2)]

        async def both() -> bool:
            return len(resident.claims) == 2

        await until(both, "two claims")
        # Two rows, each as long as the longest: 300 characters at three per token, and the limit of the answer.
        at_first = resident.growth
        assert 0 < at_first <= 2 * (100 + 600) * resident.token_bytes

        async def is_less() -> bool:
            return resident.growth < at_first

        await until(is_less, "less growth to come")
        await asyncio.gather(*asking)
        assert (resident.growth, resident.claims) == (0, [])

        dial.percent, dial.total = 50.0, 300 * resident.token_bytes
        await asyncio.sleep(0.2)
        assert (await client.post("/api/generate", json=body(40))).status_code == 200
        refused = await client.post("/api/generate", json=body(60))
        assert refused.status_code == 503
        assert refused.json()["error"].startswith("not enough memory to answer with tiny:latest: ")
        assert "x-mlx-ollama-setting" not in refused.headers

    _run(many, story)


def test_prompts_that_are_given_back_in_mid_answer_do_no_harm_to_it(
    many: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(client: httpx.AsyncClient, gateway: Gateway, dial: Dial) -> None:
        body = {"model": "tiny", "prompt": "bada keti " * 60, "stream": False, "options": {"num_predict": 900}}

        async def is_recalled() -> bool:
            return 'prompts_total{cache="hit"' in (await client.get("/metrics")).text

        async def is_given_back() -> bool:
            return "MiB of prefixes" in caplog.text

        first = await client.post("/api/generate", json=body)
        asking = asyncio.create_task(client.post("/api/generate", json=body))
        await until(is_recalled, "a prompt that is remembered")
        dial.percent = 96.0
        await until(is_given_back, "relief")
        dial.percent = 10.0
        probe = await client.post("/api/generate", json={**body, "options": {"num_predict": 1}})
        assert probe.headers[PROMPT_CACHE_HEADER] == "reused=0"
        assert not asking.done()
        again = await asking
        assert int(again.headers[PROMPT_CACHE_HEADER].removeprefix("reused=")) > 100
        for name in ("response", "prompt_eval_count", "eval_count"):
            assert again.json()[name] == first.json()[name]

    _run(many, story, debug=True)


def test_a_killed_worker_is_a_503_only_if_memory_was_short(many: Path) -> None:
    body = {"model": "tiny", "prompt": "bada", "stream": False, "options": {"num_predict": 1500, "num_ctx": 8192}}

    async def story(client: httpx.AsyncClient, gateway: Gateway, dial: Dial) -> None:
        async def killed(percent: float) -> httpx.Response:
            dial.percent = 10.0
            await client.post("/api/generate", json={"model": "tiny"})
            asking = asyncio.create_task(client.post("/api/generate", json=body))

            async def is_busy() -> Any:
                return next((one for one in gateway.pool.residents() if one.user_count), None)

            busy = await until(is_busy, "an answer under way")
            dial.percent = percent
            await asyncio.sleep(0.2)
            busy.link.process.send_signal(signal.SIGKILL)
            return await asking

        await _embed(client, "a")

        async def restarting() -> bool:
            health = (await client.get("/health")).json()
            return (health["restarting_models"], health["status"]) == (["tiny:latest"], "degraded")

        going_on = asyncio.create_task(killed(50.0))
        await until(restarting, "a worker that is being restarted")
        assert (await going_on).json()["eval_count"] == 1500
        assert (await client.get("/health")).json()["restarting_models"] == []
        failed = await killed(96.0)
        assert failed.status_code == 503
        assert failed.json()["error"].endswith("memory was 96.0 % in use")
        # The emergency has taken what was idle.
        await _until_cached(client)
        assert gateway.pool.tally.deaths == 2

    _run(many, story)


def test_an_allocation_that_fails_is_a_503_for_that_request_and_an_alarm(
    tmp_path: Path, many: Path, tiny_directory: Path
) -> None:
    greedy = tmp_path / "greedy"
    shutil.copytree(tiny_directory, greedy)
    settings = json.loads((greedy / "tokenizer_config.json").read_text())
    (greedy / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": GREEDY_TEMPLATE}))
    home = tmp_path / "home"
    shutil.copytree(many, home)
    assert run_cli("import", "greedy", str(greedy), "--home", str(home)).returncode == 0
    with serving(home) as server:
        assert server.post("/api/embed", {"model": "a", "input": "ba"}).status_code == 200
        options = {"options": {"num_predict": 2}, "stream": False, "max_tokens": 2}

        def ask(path: str, content: str) -> httpx.Response:
            return server.post(path, {"model": "greedy", "messages": [{"role": "user", "content": content}], **options})

        assert ask("/api/chat", "bada").status_code == 200
        for path in ("/api/chat", "/v1/chat/completions"):
            failed = ask(path, "burst")
            assert failed.status_code == 503
            assert "memory ran out under this request: " in failed.text
        assert "emergency: memory ran out under this request" in server.log.read_text()
        wait_until(lambda: "memory: a:latest was idle and is unloaded" in server.log.read_text(), "the clean-up")
        assert ask("/api/chat", "bada").status_code == 200
