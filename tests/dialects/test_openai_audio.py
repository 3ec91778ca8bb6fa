"""`/v1/audio/transcriptions`: forms as calls, and answers as they were recorded (wire-spec 8.7)."""

import base64
from typing import Any

import pytest

from mlx_ollama.dialects.openai_audio import Answers, TranscriptionChat, decode
from mlx_ollama.doors import DOORS
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.types import Delta, Done, Message
from tests.compat.recordings import cases

FORM = {"content-type": "multipart/form-data; boundary=x"}


def _decode(**parts: str) -> TranscriptionChat:
    told = "".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"{"; filename=a" if name == "file" else ""}\r\n\r\n'
        f"{text}\r\n"
        for name, text in parts.items()
    )
    return decode(f"{told}--x--\r\n".encode(), FORM)


@pytest.mark.parametrize("case", cases("scripted_audio"), ids=lambda case: case["name"])
def test_the_answer_is_the_references(case: dict[str, Any]) -> None:
    request, response = case["request"], case["response"]
    door = DOORS[request["path"]]
    headers = {name.lower(): value for name, value in request["headers"].items()}
    call = door.decode(base64.b64decode(request["body_base64"]), headers)
    answers: Any = door.answers(call)
    assert answers.whole([Delta("Hel"), Delta("lo"), Done("stop")]).decode() == response["body"]
    assert answers.whole_headers == {"content-type": response["headers"]["Content-Type"]}


def test_a_form_is_a_chat() -> None:
    call = _decode(file="RIFF", model="m", language="de", prompt="Names: Ö.", temperature="1", response_format="srt")
    told = "Write down what is said in this recording. Its language is de. Names: Ö."
    assert call.messages == (Message("user", told, audio=(b"RIFF",)),)
    assert (call.model, call.stream, call.options, call.bare) == ("m", False, {"temperature": 0}, False)
    assert call.ignored == ("temperature",)
    assert Answers(call).whole([Delta(" <a> "), Done("stop")]) == b'{"text":" \\u003ca\\u003e "}\n'
    bare = _decode(file="RIFF", model="m", response_format="text")
    assert Answers(bare).whole([Delta(" <a> "), Done("stop")]) == b"<a>"


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({}, "model is required"),
        ({"model": "", "file": "x"}, "model is required"),
        ({"model": "m"}, "file is required: http: no such file"),
        ({"model": "m", "file": ""}, "audio file is empty"),
    ],
)
def test_what_is_missing(parts: dict[str, str], why: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        _decode(**parts)
    assert raised.value.message == why


def test_a_body_that_is_no_form() -> None:
    with pytest.raises(InvalidRequest) as raised:
        decode(b"{}", {"content-type": "application/json"})
    assert raised.value.message == "failed to parse multipart form: request Content-Type isn't multipart/form-data"
