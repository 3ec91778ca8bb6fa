"""A long prompt and everybody else, through the door."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Server, serving, wait_until

pytestmark = pytest.mark.xdist_group("fairness")

LONG = "zuzu momo keti rara lele bada " * 300


@pytest.fixture(scope="module")
def server(tiny_home: Path) -> Iterator[Server]:
    # Slices so short that even a tiny model needs many of them.
    with serving(tiny_home, env={"MLX_API_PREFILL_SLICE": "0.005"}) as server:
        server.post("/api/generate", {"model": "tiny"})
        yield server


def _body(text: str, tokens: int, **more: Any) -> dict[str, Any]:
    options = {"num_predict": tokens, "num_ctx": 8192}
    return {"model": "tiny", "prompt": text, "raw": True, "options": options} | more


class Asked(threading.Thread):
    """A request on its way, and when each of its lines came."""

    def __init__(self, server: Server, body: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self._server, self._body = server, body
        self.lines: list[float] = []
        self.start()

    def run(self) -> None:
        with self._server.client.stream("POST", "/api/generate", json=self._body) as response:
            for _ in response.iter_lines():
                self.lines.append(time.monotonic())


def test_a_short_chat_overtakes_a_long_prompt(server: Server) -> None:
    long = Asked(server, _body(LONG, 4))
    # The first of them may have come before the long one, the others have not.
    chats = []
    for word in ("bada", "keti", "momo"):
        chats.append(Asked(server, _body(word, 4)))
        chats[-1].join(60)
    long.join(60)
    assert all(chat.lines[-1] < long.lines[0] for chat in chats)


def test_answers_go_on_while_a_long_prompt_is_read(server: Server) -> None:
    running = Asked(server, _body("keti", 800))
    wait_until(lambda: len(running.lines) > 5, "an answer")
    long = Asked(server, _body("so " + LONG, 2))
    began, before = time.monotonic(), len(running.lines)
    long.join(60)
    said = len([line for line in running.lines[before:] if line < long.lines[0]])
    assert said >= 10, f"{said} tokens in {long.lines[0] - began:.2f} s"
    running.join(60)
