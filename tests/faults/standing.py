"""What still stands after a fault: health at once, every permit, the next good answer, everything stored."""

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from tests.support.server import Server, wait_until

HEALTH_SECONDS = 1.0
PATIENCE = 3
"""Health checks in a row that must not be late: other tests use this machine, too, and one may be their doing."""

PROBE_SECONDS = 0.1
REST_SECONDS = 30.0

GOOD_TOKENS = 4

ANSWERED, TOLD, HUNG_UP = "answered", "told", "hung up on"
EITHER = f"{ANSWERED} or {TOLD}"


class Probe:
    """Asks for health again and again, on connections of its own; `late` is how many checks in a row were late."""

    def __init__(self, url: str) -> None:
        self.late = 0
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        in_a_row = 0
        while not self._stop.wait(PROBE_SECONDS):
            in_a_row = 0 if is_healthy(self._url) else in_a_row + 1
            self.late = max(self.late, in_a_row)


def is_healthy(url: str) -> bool:
    """Whether `/health` answers within a second."""
    try:
        return httpx.get(f"{url}/health", timeout=HEALTH_SECONDS, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def stored(home: Path) -> dict[str, int]:
    """The files of the store, and how large they are; a blob's name is its content."""
    files = (home / "models").rglob("*")
    return {str(file): file.stat().st_size for file in files if file.is_file() and not file.name.startswith(".")}


def good_text(server: Server, model: str = "tiny") -> str:
    """What a good request is answered."""
    body = {"model": model, "prompt": "bada", "stream": False, "options": {"num_predict": GOOD_TOKENS}}
    answer = server.post("/api/generate", body)
    assert answer.status_code == httpx.codes.OK, answer.text
    assert answer.json()["eval_count"] == GOOD_TOKENS
    return str(answer.json()["response"])


def all_permits_are_back(server: Server) -> None:
    wait_until(
        lambda: not (health := server.client.get("/health").json())["active_requests"] + health["queued_requests"],
        "the return of every permit",
        REST_SECONDS,
    )


@contextmanager
def standing(server: Server, text: str, model: str = "tiny") -> Iterator[None]:
    """Around a fault: afterwards the server must be as it was, and answer a good request to `model` with `text`."""
    before, models = stored(server.home), server.client.get("/api/tags").json()
    with Probe(server.url) as probe:
        yield
        all_permits_are_back(server)
    assert probe.late < PATIENCE, "health was late"
    assert good_text(server, model) == text
    assert before.items() <= stored(server.home).items()
    assert [model for model in models["models"] if model not in server.client.get("/api/tags").json()["models"]] == []


class Ask:
    """A request that streams in a thread of its own; `lines` are what has come of it so far."""

    def __init__(self, url: str, body: dict[str, Any], pool: ThreadPoolExecutor, path: str = "/api/generate") -> None:
        self.lines: list[dict[str, Any]] = []
        self.body = body
        self._url = url + path
        self._done: Future[int] = pool.submit(self._run)

    @property
    def text(self) -> str:
        return "".join(line.get("response", "") for line in self.lines)

    def outcome(self) -> str:
        """Answered, told or hung up on; anything else is a fault of ours."""
        try:
            status = self._done.result(REST_SECONDS * 2)
        except httpx.TransportError:
            return HUNG_UP
        last = self.lines[-1]
        if status == httpx.codes.OK and (last.get("done") or last.get("status") == "success"):
            return ANSWERED
        assert set(last) == {"error"}, last
        assert last["error"]
        assert status in (httpx.codes.OK, *range(500, 505)), (status, last)
        return TOLD

    def _run(self) -> int:
        with httpx.stream("POST", self._url, json=self.body, timeout=120, trust_env=False) as response:
            self.lines.extend(json.loads(line) for line in response.iter_lines())
        return response.status_code


@contextmanager
def asking(server: Server, bodies: Sequence[dict[str, Any]]) -> Iterator[list[Ask]]:
    """Ask for all of these at once; the block ends when every one of them has."""
    with ThreadPoolExecutor(len(bodies) or 1) as pool:
        yield [Ask(server.url, body, pool) for body in bodies]


def outcome_of(asks: Sequence[Ask]) -> str:
    """What became of requests: of all of them the same, or some of this and some of that."""
    return " or ".join(sorted({ask.outcome() for ask in asks}))


def is_gone(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
