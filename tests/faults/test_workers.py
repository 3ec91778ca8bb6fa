"""What happens to requests and workers when one side goes away."""

import json
import os
import shutil
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.server import Fatal, Server, is_busy, run_cli, serving, wait_until

LONG_PROMPT = "keti zuzu momo " * 5000
FAILED_LOADS = 'model_loads_total{outcome="failed"}'
TWICE = "the model worker has stopped 2 times while it had this prompt"
ENDLESS = {"model": "tiny", "prompt": "bada", "options": {"num_predict": 20_000, "num_ctx": 8192}}


def _send(server: Server, path: str, body: dict[str, Any]) -> socket.socket:
    """A request over a bare socket, so that the test decides when it hangs up."""
    content = json.dumps(body).encode()
    connection = socket.create_connection((server.host, server.port), timeout=30)
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


def _load(server: Server, model: str) -> psutil.Process:
    assert server.post("/api/generate", {"model": model}).json()["done_reason"] == "load"
    (worker,) = server.workers()
    return worker


def test_workers_killed_twice_in_mid_stream(server: Server) -> None:
    worker = _load(server, "tiny")
    lines = []
    fate = Fatal(server)
    with server.client.stream("POST", "/api/generate", json=ENDLESS) as response:
        for line in response.iter_lines():
            lines.append(json.loads(line))
            fate.seen()
    assert response.status_code == 200
    assert set(lines[-1]) == {"error"}
    assert TWICE in lines[-1]["error"]
    assert all(not line["done"] for line in lines[:-1])
    again = {"model": "tiny", "prompt": "other", "stream": False, "options": {"num_predict": 3}}
    assert server.post("/api/generate", again).json()["eval_count"] == 3
    assert server.workers()[0].pid != worker.pid
    assert "unexpectedly stopped (SIGKILL" in server.log.read_text()


@pytest.mark.parametrize(
    ("path", "rest"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "bada"}]}),
        ("/v1/completions", {"prompt": "bada"}),
    ],
)
def test_workers_killed_twice_in_mid_stream_of_openais(server: Server, path: str, rest: dict[str, Any]) -> None:
    _load(server, "tiny")
    lines = []
    fate = Fatal(server)
    body = {"model": "tiny", "stream": True, "max_tokens": 7000, **rest}
    with server.client.stream("POST", path, json=body) as response:
        for line in filter(None, response.iter_lines()):
            lines.append(json.loads(line.removeprefix("data: ")))
            fate.seen()
    assert response.status_code == 200
    assert not any(line["choices"][0]["finish_reason"] for line in lines)
    assert lines[-1]["model"] == ("" if "messages" in rest else "tiny")


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_streams_of_named_events_just_stop(server: Server, path: str) -> None:
    _load(server, "tiny")
    body = {"model": "tiny", "stream": True, "input": "x", "messages": [{"role": "user", "content": "x"}]}
    names = []
    fate = Fatal(server)
    with server.client.stream("POST", path, json={**body, "max_tokens": 100_000, "temperature": 0}) as response:
        for line in response.iter_lines():
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
                fate.seen()
    assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream")
    assert names[-1] in ("content_block_delta", "response.output_text.delta")


@pytest.mark.parametrize("stream", [True, False])
def test_workers_killed_twice_before_the_first_byte(server: Server, stream: bool) -> None:
    worker = _load(server, "slow")
    answers: list[httpx.Response] = []
    body = {"model": "slow", "prompt": LONG_PROMPT, "stream": stream}
    asking = threading.Thread(target=lambda: answers.append(server.post("/api/generate", body)))
    asking.start()
    wait_until(lambda: is_busy(worker), "prefill")
    worker.send_signal(signal.SIGABRT)
    wait_until(lambda: worker not in server.workers() and server.workers(), "another worker", 60)
    (other,) = server.workers()
    wait_until(lambda: server.client.get("/api/ps").json()["models"] and is_busy(other), "prefill again", 60)
    other.send_signal(signal.SIGABRT)
    asking.join(60)
    assert answers[0].status_code == 500
    assert TWICE in answers[0].json()["error"]
    assert server.client.get("/api/version").status_code == 200


def test_a_worker_that_stands_still_holds_up_nobody_else(server: Server) -> None:
    """Busy is not dead: its stream waits and goes on, while the gateway and other models answer."""
    worker = _load(server, "tiny")
    lines: list[str] = []
    body = {**ENDLESS, "options": {"num_predict": 4000, "num_ctx": 8192}}

    def read() -> None:
        with httpx.stream("POST", f"{server.url}/api/generate", json=body, timeout=120, trust_env=False) as response:
            lines.extend(response.iter_lines())

    reading = threading.Thread(target=read)
    reading.start()
    wait_until(lambda: is_busy(worker), "decoding")
    worker.suspend()
    try:
        assert server.client.get("/api/version").status_code == 200
        assert server.client.get("/api/ps").json()["models"][0]["name"] == "tiny:latest"
        other = {"model": "slow", "prompt": "x", "stream": False, "options": {"num_predict": 2}}
        assert server.post("/api/generate", other).json()["eval_count"] == 2
        assert reading.is_alive()
    finally:
        worker.resume()
    reading.join(60)
    assert json.loads(lines[-1])["eval_count"] == 4000


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_hanging_up_stops_the_work(server: Server, stream: bool, phase: str) -> None:
    model = "slow" if phase == "prefill" else "tiny"
    worker = _load(server, model)
    body = {"model": "slow", "prompt": LONG_PROMPT} if phase == "prefill" else ENDLESS
    connection = _send(server, "/api/generate", {**body, "stream": stream})
    wait_until(lambda: is_busy(worker), phase)
    connection.close()
    wait_until(lambda: not is_busy(worker), "the worker's rest", seconds=5)
    quick = server.post(
        "/api/generate", {"model": model, "prompt": "ra", "stream": False, "options": {"num_predict": 2}}
    )
    assert quick.json()["eval_count"] == 2


def test_a_negative_default_keeps_models_for_ever(home: Path) -> None:
    with serving(home, "--keep-alive", "-1") as server:
        _load(server, "tiny")
        (model,) = server.client.get("/api/ps").json()["models"]
        assert int(model["expires_at"][:4]) > 2200


def test_ctrl_c_reaches_the_gateway_only(server: Server) -> None:
    worker = _load(server, "tiny")
    assert os.getsid(worker.pid) == worker.pid != os.getsid(server.process.pid)


def test_a_model_that_cannot_be_loaded(server: Server, tiny_directory: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_directory.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    assert run_cli("import", "broken", str(broken), "--home", str(server.home)).returncode == 0
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    for stream in (True, False):
        refused = server.post("/api/generate", {"model": "broken", "prompt": "x", "stream": stream})
        assert refused.status_code == 500
        assert "safetensors" in refused.json()["error"]
    (broken / "model.safetensors").write_bytes(weights)
    body = {"model": "broken", "prompt": "x", "stream": False, "options": {"num_predict": 1}}
    assert server.post("/api/generate", body).json()["eval_count"] == 1


def test_loads_that_fail_open_the_breaker_and_one_trial_closes_it(
    home: Path, tiny_directory: Path, tmp_path: Path
) -> None:
    """What fails in words is not made once more for those who wait; it counts all the same."""
    broken = tmp_path / "broken"
    shutil.copytree(tiny_directory, broken)
    assert run_cli("import", "broken", str(broken), "--home", str(home)).returncode == 0
    tokenizer = (broken / "tokenizer.json").read_bytes()
    (broken / "tokenizer.json").write_bytes(b"{}")
    body = {"model": "broken", "prompt": "x", "stream": False, "options": {"num_predict": 1}}
    with serving(home, env={"MLX_API_WORKER_BREAKER": "2", "MLX_API_WORKER_BREAKER_OPEN": "5"}) as server:
        failed = [server.post("/api/generate", body) for _ in range(2)]
        assert [answer.status_code for answer in failed] == [500, 500]
        refused = server.post("/api/generate", body)
        assert refused.status_code == 503
        assert "broken:latest has failed to load 2 times in a row" in refused.json()["error"]
        assert 1 <= int(refused.headers["retry-after"]) <= 5
        assert (server.figure("worker_deaths_total"), server.figure(FAILED_LOADS)) == (0, 2)
        (broken / "tokenizer.json").write_bytes(tokenizer)
        tried = wait_until(lambda: (answer := server.post("/api/generate", body)).status_code == 200 and answer, "it")
        assert tried.json()["eval_count"] == 1


def test_a_load_whose_worker_dies_is_made_once_more_and_then_told(server: Server) -> None:
    answers: list[httpx.Response] = []
    body = {"model": "slow", "prompt": "bada", "stream": False, "options": {"num_predict": 1}}
    asking = [threading.Thread(target=lambda: answers.append(server.post("/api/generate", body))) for _ in range(3)]
    for one in asking:
        one.start()
    wait_until(lambda: server.client.get("/health").json()["active_requests"] == len(asking), "all of them")
    killed: set[int] = set()
    for _ in range(2):
        (worker,) = wait_until(lambda: [other for other in server.workers() if other.pid not in killed], "a worker")
        killed.add(worker.pid)
        worker.kill()
    for one in asking:
        one.join(60)
    assert [answer.status_code for answer in answers] == [500] * 3
    assert "unexpectedly stopped (SIGKILL" in answers[0].json()["error"]
    assert (server.figure("worker_deaths_total"), server.figure(FAILED_LOADS)) == (2, 2)
    assert server.post("/api/generate", body).json()["eval_count"] == 1


def test_many_requests_share_one_load(server: Server) -> None:
    answers: list[int] = []
    body = {"model": "tiny", "prompt": "bada", "stream": False, "options": {"num_predict": 4}}
    threads = [
        threading.Thread(target=lambda: answers.append(server.post("/api/generate", body).json()["eval_count"]))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [4] * 6
    assert len(server.workers()) == 1


def test_a_caller_who_leaves_while_loading_does_not_end_the_load(server: Server) -> None:
    _send(server, "/api/generate", {"model": "slow"}).close()
    wait_until(lambda: server.client.get("/api/ps").json()["models"], "the load")


def test_a_short_chat_does_not_wait_for_a_long_prompt(server: Server) -> None:
    worker = _load(server, "slow")
    connection = _send(server, "/api/generate", {"model": "slow", "prompt": LONG_PROMPT, "options": {"num_predict": 1}})
    wait_until(lambda: is_busy(worker), "prefill")
    began = time.monotonic()
    body = {"model": "slow", "prompt": "ra", "stream": False, "options": {"num_predict": 1}}
    assert server.post("/api/generate", body).json()["eval_count"] == 1
    overtook = time.monotonic() - began
    assert overtook < 5
    connection.settimeout(0.05)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    connection.close()
