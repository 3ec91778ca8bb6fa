"""The rest of what was recorded of the reference's own API while its engine followed a script.

Loads, renderings, vectors, refusals and ends: what the service says, through our encoders, gives the same bytes. Text,
thinking and calls are in tests/worker/parse/test_recorded.py.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from mlx_ollama import gotime
from mlx_ollama.dialects import ollama
from mlx_ollama.dialects.answers import Stage
from mlx_ollama.doors import DOORS
from mlx_ollama.types import (
    Call,
    Delta,
    Details,
    Done,
    Embed,
    Embeddings,
    Event,
    Generation,
    LoadedModel,
    Rendered,
    Usage,
)
from tests.compat.differences import DIFFERENCES
from tests.compat.recordings import cases

CASES = cases("scripted_native")
TIME = re.compile(r'"(created_at|expires_at)":"[^"]*"')


def _call(case: Mapping[str, Any]) -> Call:
    return DOORS[case["request"]["path"]].decode(case["request"]["body"].encode(), {})


def _script(case: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(case["setup"].removeprefix("runner script: "))
    return found


def _usage(members: Mapping[str, int]) -> Usage:
    return Usage(
        members.get("prompt_eval_count", 0),
        members.get("prompt_eval_duration", 0),
        members.get("eval_count", 0),
        members.get("eval_duration", 0),
        members.get("load_duration", 0),
        members.get("total_duration", 0),
    )


def _vectors(case: Mapping[str, Any], call: Embed) -> bytes:
    numbers: list[float] = _script(case)["embedding"]
    length = sum(number**2 for number in numbers) ** 0.5 or 1.0
    shown = [number / length for number in numbers[: call.dimensions or None]] if call.normalize else numbers
    if call.dimensions == 1:
        shown = [1.0]
    members = json.loads(case["response"]["body"])
    counted = _usage(members) if "total_duration" in members else None
    answers: Any = DOORS[case["request"]["path"]].answers(call)
    return bytes(answers.vectors(Embeddings([shown for _ in call.inputs or ()], counted)))


def _events(case: Mapping[str, Any], call: Generation) -> tuple[list[Event], str]:
    """What the service says, and why it breaks off, if it does."""
    last = json.loads(case["response"]["body"].strip().splitlines()[-1])
    if call.render_only:
        return [Rendered(last["_debug_info"]["rendered_template"])], ""
    if last.get("done_reason") in ("load", "unload"):
        return [Done(last["done_reason"])], ""
    script = _script(case)
    said = script["chat" if case["request"]["path"] == "/api/chat" else "completion"]
    texts = [piece if isinstance(piece, str) else piece.get("content", "") for piece in said]
    deltas: list[Event] = [Delta(text) for text in texts if text not in ("", "CLOSE", "DIE")]
    if not last.get("done"):
        return deltas, last.get("error", "gone")
    return [*deltas, Done("stop", _usage(last), tuple(last["context"]))], ""


def _body(case: Mapping[str, Any]) -> bytes:
    if case["request"]["path"] == "/api/ps":
        return ollama.encode_ps([_loaded(model) for model in json.loads(case["response"]["body"])["models"]])
    call = _call(case)
    answers: Any = DOORS[case["request"]["path"]].answers(call)
    if isinstance(call, Embed):
        return _vectors(case, call)
    assert isinstance(call, Generation)
    events, error = _events(case, call)
    if call.stream and not answers.is_plain(events[0]):
        return b"".join([*map(answers.event, events), answers.broken(error) if error else b""])
    return bytes(_refusal(case, error).body if error else answers.whole(events))


def _loaded(members: Mapping[str, Any]) -> LoadedModel:
    given = members["details"]
    details = Details(
        given["format"],
        given["family"],
        tuple(given["families"]),
        given["parameter_size"],
        given["quantization_level"],
    )
    counted = (members["digest"], details, gotime.now(), members["context_length"])
    return LoadedModel(members["name"], members["size"], members["size_vram"], *counted)


def _refusal(case: Mapping[str, Any], message: str) -> Any:
    # `application/json` alone is what the reference says where a stream was about to begin (wire-spec 0.2).
    stage: Stage = "answering" if case["response"]["headers"]["Content-Type"] == "application/json" else "checking"
    return DOORS[case["request"]["path"]].refuse(case["response"]["status"], message, stage)


def _without_times(body: str) -> str:
    return TIME.sub(r'"\1":""', body)


ANSWERED = [case for case in CASES if case["response"]["status"] == 200]
REFUSED = [case for case in CASES if case["response"]["status"] != 200]


@pytest.mark.parametrize("case", ANSWERED, ids=lambda case: case["name"])
def test_the_answer_is_the_references(case: dict[str, Any]) -> None:
    got, recorded = _without_times(_body(case).decode()), _without_times(case["response"]["body"])
    assert (got == recorded) is (case["name"] not in DIFFERENCES)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["name"])
def test_the_refusal_is_the_references(case: dict[str, Any]) -> None:
    response = case["response"]
    refusal = _refusal(case, json.loads(response["body"])["error"])
    assert refusal.body.decode() == response["body"]
    assert refusal.headers == {"content-type": response["headers"]["Content-Type"]}


@pytest.mark.parametrize("name", ["gen_truncated_stream", "gen_runner_dies", "chat_midstream_error"])
def test_what_breaks_off_is_told(name: str) -> None:
    (case,) = (case for case in CASES if case["name"] == name)
    *_, last = _body(case).splitlines()
    assert list(json.loads(last)) == ["error"]


def test_half_an_answer_is_none() -> None:
    (case,) = (case for case in CASES if case["name"] == "gen_truncated_nostream")
    assert json.loads(_body(case)) == {"error": "gone"}
