"""Answers outlive their workers: in every dialect, as streams and whole, the text is what it would have been."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import psutil
import pytest

from tests.support.parrot import write_parrot
from tests.support.server import Fatal, Server, is_busy, run_cli, serving, wait_until
from tests.worker.parse.feeding import GET_W
from tests.worker.parse.tokenizers import FAMILIES

TOKENS = 300
OPTIONS = {"num_predict": TOKENS, "num_ctx": 8192}
CREATIVE = {**OPTIONS, "temperature": 1.0, "seed": 5, "top_p": 0.95, "repeat_penalty": 1.1}
HI: list[Any] = [{"role": "user", "content": "bada"}]
CALL = '{"name": "get_w", "arguments": {"n": 3, "city": "Rome"}}'
LIST = {
    "type": "object",
    "properties": {"items": {"type": "array", "items": {"type": "string"}, "minItems": 80}},
    "required": ["items"],
}
EAGER = {"MLX_API_WORKER_BACKOFF": "0.05"}
"""Workers die often here, and each is replaced at once."""

TRIES = 5
"""On a machine with other work a client may hear so late that nothing is left to go on with."""

Seen = Callable[[], None]
"""To be called whenever something of an answer has arrived."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_directory: Path, slow_directory: Path) -> Iterator[Server]:
    """`tiny` speaks for ever, `slow` reads slowly; `parrot` thinks, speaks and calls a tool, at some length."""
    home = tmp_path_factory.mktemp("resumption")
    said = ["<think>", *_words("t", 150), "</think>", *_words("s", 150), "<tool_call>", CALL, "</tool_call>"]
    parrot = write_parrot(home / "a-parrot", FAMILIES["qwen3"][0], said, ["<|im_start|>assistant\n"])
    for name, directory in (("tiny", tiny_directory), ("slow", slow_directory), ("parrot", parrot)):
        made = run_cli("import", name, str(directory), "--home", str(home), "--parameter", "temperature=0")
        assert made.returncode == 0, made.stderr
    with serving(home, "--context-length", "32768", env=EAGER) as server:
        yield server


def _words(letter: str, count: int) -> list[str]:
    return [f"{letter}{number} " for number in range(count)]


def _load(server: Server, model: str) -> psutil.Process:
    """The worker of a model, and no other."""
    for loaded in server.client.get("/api/ps").json()["models"]:
        if loaded["name"] != f"{model}:latest":
            server.post("/api/generate", {"model": loaded["name"], "keep_alive": 0})
    assert server.post("/api/generate", {"model": model}).json()["done_reason"] == "load"
    (worker,) = wait_until(lambda: len(found := server.workers()) == 1 and found, "one worker")
    return worker


def _undisturbed_and_not(server: Server, model: str, ask: Callable[[Seen], Any], at: int) -> Any:
    """What is answered, which is the same if the worker dies when the `at`-th sign of the answer has arrived."""
    _load(server, model)
    undisturbed = ask(lambda: None)

    def resumed() -> int:
        """How many answers went on: none if the worker had said all before its beginning was heard here."""
        worker, signs = _load(server, model), 0

        def kill() -> None:
            nonlocal signs
            signs += 1
            if signs == at:
                worker.kill()

        before = server.figure("resumed_streams_total")
        assert ask(kill) == undisturbed
        assert signs >= at
        return int(server.figure("resumed_streams_total") - before)

    assert next(filter(None, (resumed() for _ in range(TRIES))), 0) == 1
    return undisturbed


def _ollama(server: Server, path: str, body: dict[str, Any], seen: Seen) -> Any:
    """What a stream says, without what differs each time."""
    lines = []
    with server.client.stream("POST", path, json=body) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            lines.append(json.loads(line))
            seen()
    assert "error" not in lines[-1], lines[-1]
    messages = [line.get("message", {"content": line.get("response", "")}) for line in lines]
    calls = [call for message in messages for call in message.get("tool_calls", [])]
    end = {name: value for name, value in lines[-1].items() if not name.endswith(("duration", "_at", "message"))}
    return (
        "".join(message["content"] for message in messages),
        "".join(message.get("thinking", "") for message in messages),
        [call["function"] for call in calls],
        [(one["token"], round(one["logprob"], 3)) for line in lines for one in line.get("logprobs") or []],
        end,
    )


@pytest.mark.parametrize(
    "rest",
    [
        {"prompt": "bada", "options": OPTIONS},
        {"prompt": "bada", "options": CREATIVE},
        {"prompt": "bada", "options": CREATIVE, "format": LIST},
        {"prompt": "bada", "options": {**OPTIONS, "num_predict": 200}, "logprobs": True, "top_logprobs": 2},
    ],
    ids=["greedy", "seeded", "format", "logprobs"],
)
def test_ollamas_generate(server: Server, rest: dict[str, Any]) -> None:
    body = {"model": "tiny", **rest}
    text, *_, likely, end = _undisturbed_and_not(
        server, "tiny", lambda seen: _ollama(server, "/api/generate", body, seen), at=20
    )
    assert text
    assert bool(likely) == ("logprobs" in rest)
    assert end["eval_count"] == rest["options"]["num_predict"]


def test_stop_strings(server: Server) -> None:
    _load(server, "tiny")
    body = {"model": "tiny", "prompt": "bada", "options": CREATIVE}
    text, *_ = _ollama(server, "/api/generate", body, lambda: None)
    stop = text[-40:-30]
    stopped = {**body, "options": {**CREATIVE, "stop": [stop]}}
    shorter, *_, end = _undisturbed_and_not(
        server, "tiny", lambda seen: _ollama(server, "/api/generate", stopped, seen), at=20
    )
    assert (shorter, end["done_reason"]) == (text[: text.index(stop)], "stop")


@pytest.mark.parametrize("at", [20, 180])
def test_thoughts_and_calls(server: Server, at: int) -> None:
    body = {"model": "parrot", "messages": HI, "tools": [GET_W], "think": True}
    content, thinking, calls, *_ = _undisturbed_and_not(
        server, "parrot", lambda seen: _ollama(server, "/api/chat", body, seen), at
    )
    assert (content, thinking) == ("".join(_words("s", 150)).strip(), "".join(_words("t", 150)).strip())
    assert [(call["index"], call["name"]) for call in calls] == [(0, "get_w")]


def test_openais_chat(server: Server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

        def ask(seen: Seen) -> Any:
            text, ends = "", []
            for chunk in client.chat.completions.create(
                model="tiny",
                messages=HI,
                stream=True,
                seed=7,
                temperature=0.9,
                max_tokens=TOKENS,
                stream_options={"include_usage": True},
            ):
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    ends.append(choice.finish_reason)
                usage = chunk.usage
                seen()
            assert usage
            return text, ends[-1], usage.prompt_tokens, usage.completion_tokens

        _, end, _, tokens = _undisturbed_and_not(server, "tiny", ask, at=20)
        assert (end, tokens) == ("length", TOKENS)


def test_openais_responses(server: Server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

        def ask(seen: Seen) -> Any:
            kinds: list[str] = []
            with client.responses.stream(model="tiny", input="bada", max_output_tokens=TOKENS, temperature=0) as events:
                for event in events:
                    if not kinds or kinds[-1] != event.type:
                        kinds.append(event.type)
                    seen()
                final = events.get_final_response()
            return kinds, final.output_text, final.usage and final.usage.output_tokens

        kinds, *_ = _undisturbed_and_not(server, "tiny", ask, at=30)
        assert kinds[-1] in ("response.completed", "response.incomplete")


def test_anthropics_messages(server: Server) -> None:
    tool: Any = {"name": "get_w", "description": "d", "input_schema": GET_W["function"]["parameters"]}
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:

        def ask(seen: Seen) -> Any:
            with client.messages.stream(
                model="parrot",
                messages=HI,
                max_tokens=2000,
                thinking={"type": "enabled", "budget_tokens": 1024},
                tools=[tool],
            ) as events:
                for _ in events:
                    seen()
                message = events.get_final_message()
            blocks = [block.model_dump(exclude={"id", "signature"}) for block in message.content]
            return blocks, message.stop_reason, message.usage.output_tokens

        blocks, reason, _ = _undisturbed_and_not(server, "parrot", ask, at=80)
        assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use"]
        assert reason == "tool_use"


@pytest.mark.parametrize("path", ["/api/generate", "/v1/completions"])
def test_whole_answers(server: Server, path: str) -> None:
    worker = _load(server, "tiny")
    body = {"model": "tiny", "prompt": "zuzu", "stream": False, "options": {**OPTIONS, "num_predict": 1500}, "seed": 3}
    body["max_tokens"] = 1500
    told = []

    def ask() -> None:
        answer = server.post(path, body)
        found = answer.json()
        told.append((answer.status_code, found.get("response") or found["choices"][0]["text"]))

    ask()
    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: is_busy(worker, 0.1), "decoding")
    worker.kill()
    asking.join(60)
    assert told[0] == told[1]
    assert told[0][0] == 200


@pytest.mark.parametrize("stream", [True, False])
def test_what_has_no_token_yet_is_begun_again(server: Server, stream: bool) -> None:
    worker = _load(server, "slow")
    unread = ("keti zuzu momo " if stream else "momo bada keti ") * 200
    body = {"model": "slow", "prompt": unread, "stream": stream, "options": {"num_predict": 3}}
    before = server.figure("retried_requests_total")
    told: list[Any] = []
    asking = threading.Thread(target=lambda: told.append(server.lines("/api/generate", body)))
    asking.start()
    wait_until(lambda: is_busy(worker), "prefill")
    worker.send_signal(signal.SIGABRT)
    asking.join(120)
    assert told[0][-1]["eval_count"] == 3
    assert server.figure("retried_requests_total") == before + 1
    assert " goes on with a request in a new worker after 0 tokens" in server.log.read_text()


def test_eight_streams_go_on_together(server: Server) -> None:
    worker = _load(server, "tiny")
    bodies = [
        {"model": "tiny", "prompt": f"{'bada ' * number}x", "options": {**CREATIVE, "seed": number}}
        for number in range(8)
    ]
    alone = [_ollama(server, "/api/generate", body, lambda: None) for body in bodies]
    told: dict[int, Any] = {}
    signs = 0
    all_speak = threading.Barrier(len(bodies) + 1)

    def ask(number: int) -> None:
        signs = 0

        def seen() -> None:
            nonlocal signs
            signs += 1
            if signs == 20:
                all_speak.wait(60)

        told[number] = _ollama(server, "/api/generate", bodies[number], seen)

    asking = [threading.Thread(target=ask, args=[number]) for number in range(len(bodies))]
    for one in asking:
        one.start()
    all_speak.wait(60)
    worker.kill()
    for one in asking:
        one.join(120)
    assert [told.get(number) for number in range(8)] == alone
    assert signs == 0


def test_a_prompt_that_was_there_at_two_deaths_is_not_tried_again(server: Server) -> None:
    body = {"model": "tiny", "prompt": "vimo bada", "options": {"num_predict": 20_000, "num_ctx": 8192}}
    _load(server, "tiny")
    lines = []
    fate = Fatal(server)
    with server.client.stream("POST", "/api/generate", json=body) as response:
        for line in response.iter_lines():
            lines.append(json.loads(line))
            fate.seen()
    words = "the model worker has stopped 2 times while it had this prompt, which is therefore not tried again for"
    assert lines[-1]["error"].startswith(words)
    for path, rest in (
        ("/api/generate", {"prompt": "vimo bada"}),
        ("/api/generate", {"prompt": "vimo bada", "stream": False, "options": {"num_ctx": 100}}),
    ):
        refused = server.post(path, {"model": "tiny", **rest})
        assert refused.status_code == 500
        assert refused.json()["error"].startswith(words)
    other = {"model": "tiny", "prompt": "other", "stream": False, "options": {"num_predict": 3}}
    assert server.post("/api/generate", other).json()["eval_count"] == 3


def test_an_answer_ends_at_its_deadline_though_its_worker_died(server: Server, tmp_path: Path) -> None:
    with serving(server.home, env={**EAGER, "MLX_API_TIMEOUT": "6"}) as other:
        worker = _load(other, "tiny")
        body = {"model": "tiny", "prompt": "bada", "options": {"num_predict": 80_000, "num_ctx": 8192}}
        began = time.monotonic()
        lines = []
        with other.client.stream("POST", "/api/generate", json=body) as response:
            for line in response.iter_lines():
                lines.append(json.loads(line))
                if len(lines) == 2:
                    worker.kill()
        assert "MLX_API_TIMEOUT" in lines[-1]["error"] or "time" in lines[-1]["error"]
        assert 5 < time.monotonic() - began < 20
        assert other.figure("resumed_streams_total") == 1
