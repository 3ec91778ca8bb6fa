"""The reference's `/v1` answers to scripted tokens: the same tokens through our parser and encoders give the same
bytes, but for times and ids.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from mlx_ollama.doors import DOORS
from mlx_ollama.types import Delta, Done, Embeddings, Event, Generation, Rendered, Usage
from tests.compat.recordings import cases
from tests.worker.parse.feeding import GET_W, cuts
from tests.worker.parse.test_recorded import Script
from tests.worker.parse.test_recorded import _answer as answer_to

VOLATILE = re.compile(r'"id":"(chatcmpl-|cmpl-|call_)[a-z0-9]+"|"(created)":[0-9]+')
PROMPT = "<|user|>hi<|assistant|>"
USAGE = Usage(10, 1, 5, 1)
"""What the token source said of every answer."""


def _script(case: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(case["setup"].removeprefix("runner script: "))
    return found


def _pieces(case: Mapping[str, Any], script: Mapping[str, Any]) -> tuple[list[Any], bool]:
    """The pieces of the answer, and whether it failed after them."""
    is_chat = case["request"]["path"].endswith("/chat/completions") and "chat" in script
    pieces, has_failed = [], False
    for piece in script["chat" if is_chat else "completion"]:
        raw = piece.get("raw", {}) if isinstance(piece, dict) else {}
        if piece == "CLOSE" or "error" in raw:
            has_failed = True
        elif raw:
            choice = raw["choices"][0]
            pieces.append({"content": choice["delta"]["content"], "lp": choice["logprobs"]["content"]})
        else:
            pieces.append(piece)
    return pieces, has_failed


def _events(call: Generation, script: Mapping[str, Any], pieces: list[Any]) -> list[Event]:
    if getattr(call, "prompt", None) == "":
        return [Done("load")]
    if call.render_only:
        return [Rendered(PROMPT)]
    is_limited = script.get("finish_reason") == "length"
    events = answer_to(call, Script(pieces, call.top_logprobs), is_limited=is_limited)
    # The script says nothing of some tokens.
    known = [replace(event, logprobs=_told(event)) if isinstance(event, Delta) else event for event in events]
    return [*known, Done("length" if is_limited else "stop", USAGE)]


def _told(delta: Delta) -> tuple[Any, ...]:
    return tuple(entry for entry in delta.logprobs if entry.token)


def _generated(case: Mapping[str, Any]) -> list[bytes]:
    """The pieces that are sent together."""
    door = DOORS[case["request"]["path"]]
    call = door.decode(case["request"]["body"].encode(), {})
    assert isinstance(call, Generation)
    script = _script(case)
    pieces, has_failed = _pieces(case, script)
    events = _events(call, script, pieces)
    answers: Any = door.answers(call)
    if not call.stream or answers.is_plain(events[0]):
        return [bytes(answers.whole(events))]
    if has_failed:
        return [*map(answers.event, events[:-1]), answers.broken("gone")]
    return [*map(answers.event, events)]


def _embedded(case: Mapping[str, Any]) -> bytes:
    door = DOORS[case["request"]["path"]]
    call: Any = door.decode(case["request"]["body"].encode(), {})
    numbers = _script(case)["embedding"]
    length = sum(number**2 for number in numbers) ** 0.5
    vector = tuple(number / length for number in numbers)
    answers: Any = door.answers(call)
    usage = Usage(4 * len(call.inputs), 1, 0, 0)
    return bytes(answers.vectors(Embeddings([vector] * len(call.inputs), usage)))


def _body(case: Mapping[str, Any]) -> list[bytes]:
    """What we answer, in the pieces in which it is sent."""
    path, status = case["request"]["path"], case["response"]["status"]
    if status >= 400:
        message = json.loads(case["response"]["body"])["error"]["message"]
        return [DOORS[path].refuse(status, message, "answering").body]
    return [_embedded(case)] if path.endswith("/embeddings") else [piece for piece in _generated(case) if piece]


def _settled(body: str) -> str:
    return VOLATILE.sub(lambda found: f"{found[1] or found[2]}?", body)


@pytest.mark.parametrize("case", cases("scripted_openai"), ids=lambda case: case["name"])
def test_the_answer_is_the_references(case: dict[str, Any]) -> None:
    pieces = _body(case)
    got, recorded = _settled(b"".join(pieces).decode()), _settled(case["response"]["body"])
    assert len(pieces) == case["response"].get("chunk_count", 1)
    assert got == recorded


@pytest.mark.parametrize("case", cases("scripted_openai"), ids=lambda case: case["name"])
def test_content_types(case: dict[str, Any]) -> None:
    door = DOORS[case["request"]["path"]]
    call = door.decode(case["request"]["body"].encode(), {})
    answers: Any = door.answers(call)
    recorded = case["response"]["headers"]["Content-Type"]
    if case["response"]["status"] >= 400:
        assert door.refuse(case["response"]["status"], "", "answering").headers["content-type"] == recorded
    else:
        is_stream = recorded == "text/event-stream"
        headers = answers.stream_headers if is_stream else answers.whole_headers
        assert headers["content-type"] == recorded


def _texts() -> list[str]:
    """Everything that a script ever said."""
    found = set()
    for case in (*cases("scripted"), *cases("scripted_openai")):
        script = _script(case)
        for name in ("completion", "chat"):
            pieces = [piece if isinstance(piece, str) else piece.get("content", "") for piece in script.get(name, ())]
            found.add("".join(pieces))
    return sorted(found - {""})


def _named(function: Mapping[str, Any]) -> tuple[str, str]:
    given = function["arguments"]
    return function["name"], json.dumps(json.loads(given) if isinstance(given, str) else given)


def _joined(path: str, body: bytes) -> dict[str, Any]:
    """What a client puts together from a stream."""
    frames = [line.removeprefix(b"data: ") for line in body.splitlines() if line]
    objects = [json.loads(frame) for frame in frames if frame != b"[DONE]"]
    whole: dict[str, Any] = {"text": "", "thinking": "", "calls": [], "reasons": []}
    for found in objects:
        choice = found["choices"][0] if path.startswith("/v1/") else found
        part = choice.get("delta") or choice.get("message") or {}
        whole["text"] += part.get("content") or choice.get("text") or choice.get("response") or ""
        whole["thinking"] += part.get("reasoning") or part.get("thinking") or choice.get("thinking") or ""
        whole["calls"] += [_named(call["function"]) for call in part.get("tool_calls", choice.get("tool_calls", ()))]
        whole["reasons"] += [reason for reason in (choice.get("finish_reason"), choice.get("done_reason")) if reason]
    return whole


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("text", _texts())
def test_the_joined_answer_is_the_same_however_it_was_split(path: str, text: str) -> None:
    asked = {"model": "toolthink", "messages": [{"role": "user", "content": "x"}], "tools": [GET_W], "prompt": "x"}
    door = DOORS[path]
    call = door.decode(json.dumps({**asked, "stream": True}).encode(), {})
    assert isinstance(call, Generation)
    expected: dict[str, Any] | None = None
    for pieces in cuts(text):
        joined = _joined(path, _streamed(door.answers(call), call, pieces))
        expected = expected or joined
        assert joined == expected, pieces
    assert expected
    assert len(expected["reasons"]) == 1


def _streamed(answers: Any, call: Generation, pieces: Sequence[str]) -> bytes:
    events = [*answer_to(call, Script(list(pieces), 0), is_limited=False), Done("stop", USAGE)]
    assert not any(isinstance(event, Rendered) for event in events)
    return b"".join(map(answers.event, events))
