"""The reference's answers of `/v1/responses` and `/v1/messages` to scripted tokens.

The same tokens through stream, parser and encoder give the same bytes, but for times and ids.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from mlx_ollama.doors import DOORS
from mlx_ollama.types import Chat, Delta, Done, Event, Usage
from tests.compat.differences import DIFFERENCES, Difference
from tests.compat.recordings import cases
from tests.worker.parse.test_recorded import Script, _answer

CASES = {case["name"]: case for case in cases("scripted_v1_events")}

IDS = re.compile(r'(?<=")(msg|req|call|resp|rs_resp|rs|fc_resp|fc)_([a-z0-9]+)(?=[_"])')
TIME = re.compile(r'(?<=_at":)\d+')


def _neutral(body: str) -> str:
    """Without times, and with ids numbered as they come, so that those that belong together still do."""
    known: dict[str, str] = {}
    named = IDS.sub(lambda found: f"{found[1]}_{known.setdefault(found[0], str(len(known)))}", body)
    return TIME.sub("0", named)


def _script(case: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    script = json.loads(case["setup"].removeprefix("runner script: "))
    is_templated = json.loads(case["request"]["body"])["model"] == "toolthink"
    return script.get("completion" if is_templated else "chat") or [], script


def _call(case: Mapping[str, Any]) -> Chat:
    call = DOORS[case["request"]["path"]].decode(case["request"]["body"].encode(), {})
    assert isinstance(call, Chat)
    return call


def _events(case: Mapping[str, Any]) -> tuple[list[Event], bool]:
    """What the answer is made of, and whether it breaks off."""
    call, (pieces, script) = _call(case), _script(case)
    if not call.messages:
        return [Done("load")], False
    breaks = any(isinstance(piece, dict) and "raw" in piece for piece in pieces)
    said = [piece for piece in pieces if not (isinstance(piece, dict) and "raw" in piece)]
    deltas = _answer(call, Script(said, 0), is_limited=False)
    reason = "length" if script.get("finish_reason") == "length" else "stop"
    return deltas + ([] if breaks else [Done(reason, Usage(10, 1, 5, 1))]), breaks  # type: ignore[arg-type]


def _body(case: Mapping[str, Any], events: Sequence[Event], *, breaks: bool = False) -> str:
    """What we answer."""
    call = _call(case)
    answers: Any = DOORS[case["request"]["path"]].answers(call)
    if not call.stream:
        return str(answers.whole(events), "utf-8")
    told = [answers.event(event) for event in events]
    return b"".join([*told, answers.broken("x") if breaks else b""]).decode()


ANSWERED = [name for name in CASES if "runner400" not in name]


@pytest.mark.parametrize("name", ANSWERED)
def test_the_answer_is_the_references(name: str) -> None:
    events, breaks = _events(CASES[name])
    recorded = CASES[name]["response"]["body"]
    difference = DIFFERENCES.get(name, Difference(""))
    for theirs, ours in difference.changes:
        assert theirs in recorded
        recorded = recorded.replace(theirs, ours)
    got, recorded = _neutral(_body(CASES[name], events, breaks=breaks)), _neutral(recorded)
    assert (got == recorded) is (name not in DIFFERENCES or bool(difference.changes))


@pytest.mark.parametrize("name", ANSWERED)
def test_headers_are_the_references(name: str) -> None:
    call = _call(CASES[name])
    answers: Any = DOORS[CASES[name]["request"]["path"]].answers(call)
    headers = {key.lower(): value for key, value in CASES[name]["response"]["headers"].items()}
    told = answers.stream_headers if call.stream else answers.whole_headers
    kept = ("content-type", "cache-control")
    assert dict(told) == {key: headers[key] for key in kept if key in headers}


def test_a_refusal_in_the_place_of_a_stream() -> None:
    response = CASES["v1msg_runner400_stream"]["response"]
    message = json.loads(response["body"])["error"]["message"]
    refusal = DOORS["/v1/messages"].refuse(400, message, "answering")
    assert _neutral(refusal.body.decode()) == _neutral(response["body"])
    assert refusal.headers == {"cache-control": "no-cache", "content-type": "application/json"}


def told(body: str) -> list[dict[str, Any]]:
    """The events of a stream; each is named as its data says."""
    found = []
    for frame in filter(None, body.split("\n\n")):
        event, data = frame.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert event == f"event: {found[-1]['type']}"
    return found


def test_text_before_a_call_is_finished() -> None:
    events, _ = _events(CASES["resp_tools_stream"])
    rows = told(_body(CASES["resp_tools_stream"], events))
    assert [row["sequence_number"] for row in rows] == list(range(len(rows)))
    item, text, arguments = ("response." + name for name in ("output_item", "output_text", "function_call_arguments"))
    summary, part = "response.reasoning_summary_text", "response.content_part"
    assert [(row["type"], row.get("output_index")) for row in rows] == [
        ("response.created", None),
        ("response.in_progress", None),
        *((kind, 0) for kind in (f"{item}.added", f"{summary}.delta", f"{summary}.done", f"{item}.done")),
        *((kind, 1) for kind in (f"{item}.added", f"{part}.added", f"{text}.delta")),
        *((kind, 1) for kind in (f"{text}.done", f"{part}.done", f"{item}.done")),
        *((kind, 2) for kind in (f"{item}.added", f"{arguments}.delta", f"{arguments}.done", f"{item}.done")),
        ("response.completed", None),
    ]
    done = [row["item"] for row in rows if row["type"] == f"{item}.done"]
    assert rows[-1]["response"]["output"] == done
    assert [each["type"] for each in done] == ["reasoning", "message", "function_call"]


def _joined(body: str) -> Any:
    """What a client has in the end, however many pieces it came in."""
    if not body.startswith("event: "):
        return _neutral(body)
    rows = told(body)
    if rows[0]["type"] == "message_start":
        return list(_joined_messages(rows))
    return _joined_responses(rows)


def _joined_messages(rows: list[dict[str, Any]]) -> Iterator[Any]:
    blocks: list[list[str]] = []
    for row in rows:
        match row["type"]:
            case "content_block_start":
                assert row["index"] == len(blocks)
                blocks.append([row["content_block"]["type"]])
            case "content_block_delta":
                assert row["index"] == len(blocks) - 1
                blocks[-1].append(next(value for key, value in row["delta"].items() if key != "type"))
            case "message_delta":
                yield row
    yield from [(kind, "".join(pieces)) for kind, *pieces in blocks]


def _joined_responses(rows: list[dict[str, Any]]) -> Any:
    pieces: dict[int, str] = {}
    assert [row["sequence_number"] for row in rows] == list(range(len(rows)))
    for row in rows:
        if row["type"].endswith(".delta"):
            pieces[row["output_index"]] = pieces.get(row["output_index"], "") + row["delta"]
    kept = [row for row in rows if not row["type"].endswith(".delta")]
    bare = [{key: value for key, value in row.items() if key != "sequence_number"} for row in kept]
    return pieces, _neutral(json.dumps(bare))


def _splits(events: Sequence[Event]) -> Iterator[list[Event]]:
    """The events with one text in two, for every text and every place."""
    for at, event in enumerate(events):
        for name in ("thinking", "text"):
            text = getattr(event, name) if isinstance(event, Delta) else ""
            for cut in range(1, len(text)):
                assert isinstance(event, Delta)
                parts = [Delta("")._replace(**{name: part}) for part in (text[:cut], text[cut:])]  # type: ignore[arg-type]
                rest = event._replace(**{name: ""})  # type: ignore[arg-type]
                around: list[Event] = [rest] if rest.thinking or rest.text or rest.tool_calls else []
                yield [*events[:at], *parts, *around, *events[at + 1 :]]


@pytest.mark.parametrize("name", ANSWERED)
def test_pieces_make_no_difference(name: str) -> None:
    events, breaks = _events(CASES[name])
    wanted = _joined(_body(CASES[name], events, breaks=breaks))
    for split in _splits(events):
        assert _joined(_body(CASES[name], split, breaks=breaks)) == wanted
    together = Delta.joined([event for event in events if isinstance(event, Delta)])
    rest = [event for event in events if not isinstance(event, Delta)]
    assert _joined(_body(CASES[name], [together, *rest], breaks=breaks)) == wanted
