"""OpenAI's way to have speech written down: `/v1/audio/transcriptions` (wire-spec 8.7)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlx_ollama import gojson
from mlx_ollama.dialects.answers import NDJSON
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.multipart import read_form
from mlx_ollama.types import Chat, Delta, Event, Message

_HEEDED = ("model", "language", "prompt", "response_format")


@dataclass(frozen=True, kw_only=True)
class TranscriptionChat(Chat):
    """A chat about a recording; `bare` is for an answer that is the text alone."""

    bare: bool = False


def decode(body: bytes, headers: Mapping[str, str]) -> TranscriptionChat:
    """`POST /v1/audio/transcriptions`, a form with a file in it: a chat in which the user hands over the recording.

    Raises:
        InvalidRequest: in the reference's words.
    """
    form = read_form(body, headers.get("content-type", ""))
    model = form.fields.get("model", "")
    if not model:
        raise InvalidRequest("model is required")
    if "file" not in form.files:
        raise InvalidRequest("file is required: http: no such file")
    if not form.files["file"]:
        raise InvalidRequest("audio file is empty")
    return TranscriptionChat(
        model=model,
        messages=(Message("user", _question(form.fields), audio=(form.files["file"],)),),
        options={"temperature": 0},
        stream=False,
        bare=form.fields.get("response_format") == "text",
        ignored=tuple(name for name in form.fields if name not in _HEEDED),
    )


class Answers:
    """The text, as JSON or bare. The content type is the reference's for both."""

    whole_headers: Mapping[str, str] = {"content-type": NDJSON}

    def __init__(self, call: TranscriptionChat) -> None:
        self._bare = call.bare

    def whole(self, events: Sequence[Event]) -> bytes:
        text = Delta.joined([event for event in events if isinstance(event, Delta)]).text
        return text.strip().encode() if self._bare else gojson.dumps({"text": text}) + b"\n"


def _question(fields: Mapping[str, str]) -> str:
    language, prompt = fields.get("language", ""), fields.get("prompt", "")
    told = [f"Its language is {language}."] if language else []
    return " ".join(["Write down what is said in this recording.", *told, *([prompt] if prompt else [])])
