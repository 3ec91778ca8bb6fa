"""The reference's `/v1` answers to scripted tokens: the same tokens through our parser and encoders give the same
bytes, but for times and ids.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from mlx_ollama.doors import DOORS
from mlx_ollama.types import Delta, Done, Embeddings, Event, Generation, Rendered, Usage
from tests.compat.recordings import cases
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
    known = [event._replace(logprobs=_told(event)) if isinstance(event, Delta) else event for event in events]
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
