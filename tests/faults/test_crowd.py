"""Two hundred clients at once, many of whom hang up: the server answers, refuses, and is afterwards as it was."""

import asyncio
import json
import random
import select
import socket
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.server import Server, is_busy, serving, wait_until

CLIENTS = 200
SECONDS = 30.0
BUSY_SECONDS = 150.0
"""On a machine that is busy otherwise the clients stay for longer, until enough of them have been answered."""
ENOUGH = 1000
WARM_SECONDS = 8.0
MOST_GROWTH_BYTES = 6 << 20
PROMPTS = ("bada", "keti zuzu", "momo", "ra ra ra")
LONGEST = 3
OVERLOADED = {"error": "Server overloaded. Max 5 concurrent requests"}

Question = tuple[str, int]


def _request(question: Question, *, stream: bool) -> bytes:
    prompt, length = question
    body = json.dumps({"model": "tiny", "prompt": prompt, "stream": stream, "options": {"num_predict": length}})
    head = f"POST /api/generate HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body.encode()


def _text(body: bytes) -> str:
    """What an answer says, streamed or whole; every line of it is JSON."""
    lines = [json.loads(line) for line in body.splitlines() if line.startswith(b"{")]
    assert lines[-1]["done"]
    return "".join(line["response"] for line in lines)


class Crowd:
    """What becomes of requests that come from everywhere and go at any moment."""

    def __init__(self, server: Server, right: Mapping[Question, str]) -> None:
        self.seen: Counter[str] = Counter()
        self._server = server
        self._right = right
        self._began = time.monotonic()

    @property
    def is_over(self) -> bool:
        stayed = time.monotonic() - self._began
        return stayed >= (SECONDS if self.seen["answered"] >= ENOUGH else BUSY_SECONDS)

    async def run(self) -> None:
        await asyncio.gather(*(self._client(random.Random(number)) for number in range(CLIENTS)))

    async def _client(self, chance: random.Random) -> None:
        await asyncio.sleep(chance.uniform(0.0, 3.0))
        while not self.is_over:
            outcome = await self._ask(chance)
            self.seen[outcome] += 1
            # Those who are refused, or have left, come again after a while.
            await asyncio.sleep(0.0 if outcome == "answered" else chance.uniform(1.5, 3.0))

    async def _ask(self, chance: random.Random) -> str:
        reader, writer = await asyncio.open_connection(self._server.host, self._server.port)
        try:
            question = chance.choice(tuple(self._right))
            request = _request(question, stream=chance.random() < 0.5)
            leaves = chance.random() < 0.2
            if leaves and chance.random() < 0.3:
                request = request[: chance.randrange(len(request))]
            writer.write(request)
            if leaves:
                reading = asyncio.ensure_future(reader.read())
                await asyncio.wait([reading], timeout=chance.expovariate(1 / 0.05))
                reading.cancel()
                return "left"
            head, _, body = (await asyncio.wait_for(reader.read(), 60)).partition(b"\r\n\r\n")
            return self._judge(question, head.decode(), body)
        finally:
            writer.transport.abort()

    def _judge(self, question: Question, head: str, body: bytes) -> str:
        if head.startswith("HTTP/1.1 503"):
            assert json.loads(body) == OVERLOADED
            assert "x-mlx-ollama-setting: MLX_API_MAX_CONCURRENT" in head
            assert "retry-after: " in head
            return "refused"
        assert head.startswith("HTTP/1.1 200"), head
        assert _text(body) == self._right[question]
        return "answered"


async def _survive(server: Server, crowd: Crowd) -> int:
    """How many bytes the gateway has gained since it was warm."""
    gateway = psutil.Process(server.process.pid)
    running = asyncio.create_task(crowd.run())
    await asyncio.sleep(WARM_SECONDS)
    warm = gateway.memory_info().rss
    await running
    return int(gateway.memory_info().rss - warm)


@pytest.mark.xdist_group("crowd")
def test_two_hundred_clients_for_thirty_seconds(tiny_home: Path) -> None:
    with serving(tiny_home, env={"MLX_API_PROFILE": "guarded", "MLX_API_RATE_LIMIT": "0"}) as server:
        right = {
            (prompt, length): _text(
                server.post(
                    "/api/generate",
                    {"model": "tiny", "prompt": prompt, "stream": False, "options": {"num_predict": length}},
                ).content
            )
            for prompt in PROMPTS
            for length in range(1, LONGEST + 1)
        }
        crowd = Crowd(server, right)
        growth = asyncio.run(_survive(server, crowd))
        print(crowd.seen, growth)
        assert crowd.seen["answered"] >= ENOUGH
        assert crowd.seen["left"] >= 300
        assert growth < MOST_GROWTH_BYTES
        (worker,) = server.workers()
        wait_until(lambda: not is_busy(worker), "the engine's rest")
        wait_until(lambda: _under_way(server) == (0, 0, {}), "the end of all requests")
        _all_permits_are_there(server)
        assert "Traceback" not in server.log.read_text()


def _under_way(server: Server) -> tuple[int, int, dict[str, int]]:
    told = server.client.get("/health").json()
    return told["active_requests"], told["queued_requests"], told["active_model_requests"]


def _all_permits_are_there(server: Server) -> None:
    """Five run, five more may be read, and not one more of either."""
    endless: dict[str, Any] = {"model": "tiny", "prompt": "bada", "options": {"num_predict": 20_000, "num_ctx": 8192}}
    with ExitStack() as stack:
        for _ in range(5):
            begun = stack.enter_context(server.client.stream("POST", "/api/generate", json=endless))
            assert begun.status_code == 200
        assert server.post("/api/generate", endless).json() == OVERLOADED
        unread = [
            stack.enter_context(socket.create_connection((server.host, server.port), timeout=20)) for _ in range(6)
        ]
        for connection in unread:
            connection.sendall(b"POST /api/generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3000\r\n\r\n")
        refused, _, _ = select.select(unread, [], [], 20)
        assert len(refused) == 1
        assert not select.select([other for other in unread if other not in refused], [], [], 0.5)[0]
