"""Every text that a script ever said, in two pieces at every position: what a client puts together is the same."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from mlx_ollama.doors import DOORS
from mlx_ollama.types import Done, Generation, Usage
from tests.compat.recordings import FIXTURES, cases
from tests.worker.parse.feeding import GET_W, cuts
from tests.worker.parse.test_recorded import Script, _answer

Told = tuple[str, str]
"""What kind of thing a piece of a stream adds to, and what it adds."""

HI = [{"role": "user", "content": "x"}]
FUNCTION = GET_W["function"]
ASKED: Mapping[str, dict[str, Any]] = {
    "/api/chat": {"messages": HI, "tools": [GET_W]},
    "/api/generate": {"prompt": "x"},
    "/v1/chat/completions": {"messages": HI, "tools": [GET_W]},
    "/v1/completions": {"prompt": "x"},
    "/v1/responses": {"input": HI, "tools": [{"type": "function", **FUNCTION}]},
    "/v1/messages": {
        "messages": HI,
        "max_tokens": 99,
        "tools": [{"name": FUNCTION["name"], "input_schema": FUNCTION["parameters"]}],
    },
}
DONE = Done("stop", Usage(10, 1, 5, 1))


def _texts() -> list[str]:
    found = set()
    for file in FIXTURES.glob("scripted*.jsonl"):
        for case in cases(file.stem):
            script = json.loads(case.get("setup", "{}").removeprefix("runner script: "))
            for name in ("completion", "chat"):
                pieces = script.get(name) or ()
                said = [piece if isinstance(piece, str) else piece.get("content", "") for piece in pieces]
                found.add("".join(piece for piece in said if piece not in ("CLOSE", "DIE")))
    return sorted(found - {""})


def _of_ollama(row: dict[str, Any]) -> Iterator[Told]:
    message = row.get("message", {})
    yield "text", message.get("content") or row.get("response") or ""
    yield "thinking", message.get("thinking") or row.get("thinking") or ""
    for call in message.get("tool_calls", row.get("tool_calls", ())):
        yield "calls", call["function"]["name"] + json.dumps(call["function"]["arguments"])
    yield "ends", row.get("done_reason", "")


def _of_openai(row: dict[str, Any]) -> Iterator[Told]:
    (choice,) = row["choices"]
    delta = choice.get("delta", {})
    yield "text", delta.get("content") or choice.get("text") or ""
    yield "thinking", delta.get("reasoning", "")
    for call in delta.get("tool_calls", ()):
        yield "calls", call["function"]["name"] + json.dumps(json.loads(call["function"]["arguments"]))
    yield "ends", choice["finish_reason"] or ""


def _of_responses(row: dict[str, Any]) -> Iterator[Told]:
    item = row.get("item", {})
    match row["type"]:
        case "response.output_text.delta":
            yield "text", row["delta"]
        case "response.reasoning_summary_text.delta":
            yield "thinking", row["delta"]
        case "response.output_item.done" if item["type"] == "function_call":
            yield "calls", item["name"] + json.dumps(json.loads(item["arguments"]))
        case "response.completed":
            kinds = [item["type"] for item in row["response"]["output"]]
            yield "ends", row["response"]["status"] + str(kinds)


def _of_messages(row: dict[str, Any]) -> Iterator[Told]:
    delta = row.get("delta", {})
    match row["type"], delta.get("type"):
        case "content_block_start", _:
            yield "calls", row["content_block"].get("name", "")
        case "content_block_delta", "input_json_delta":
            yield "calls", json.dumps(json.loads(delta["partial_json"]))
        case "content_block_delta", _:
            (kind,) = delta.keys() - {"type"}
            yield kind, delta[kind]
        case "message_delta", _:
            yield "ends", delta["stop_reason"]


def _reader(path: str) -> Any:
    if path.startswith("/api/"):
        return _of_ollama
    return {"/v1/responses": _of_responses, "/v1/messages": _of_messages}.get(path, _of_openai)


def _joined(path: str, body: bytes) -> dict[str, str]:
    lines = [line.removeprefix(b"data: ") for line in body.splitlines() if line and not line.startswith(b"event: ")]
    whole = dict.fromkeys(("text", "thinking", "calls", "ends"), "")
    for row in (json.loads(line) for line in lines if line != b"[DONE]"):
        for kind, more in _reader(path)(row):
            whole[kind] += more
    return whole


def _told(path: str, pieces: list[str]) -> dict[str, str]:
    call = DOORS[path].decode(json.dumps({"model": "toolthink", "stream": True, **ASKED[path]}).encode(), {})
    assert isinstance(call, Generation)
    answers: Any = DOORS[path].answers(call)
    events = [*_answer(call, Script(pieces, 0), is_limited=False), DONE]
    return _joined(path, b"".join(map(answers.event, events)))


@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize("text", _texts())
def test_the_joined_answer_is_the_same_however_it_was_split(path: str, text: str) -> None:
    expected = _told(path, [text])
    assert expected["ends"]
    for pieces in cuts(text):
        assert _told(path, list(pieces)) == expected, pieces


@pytest.mark.parametrize("text", _texts())
def test_every_dialect_tells_the_same(text: str) -> None:
    chat = _told("/api/chat", [text])
    for path in ("/v1/chat/completions", "/v1/messages"):
        told = _told(path, [text])
        assert {**told, "ends": ""} == {**chat, "ends": ""}
