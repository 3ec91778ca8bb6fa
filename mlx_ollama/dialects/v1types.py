"""What the dialects under `/v1` share: efforts, images in URLs, arguments as text, and OpenAI's errors."""

import re
from collections.abc import Mapping
from typing import Any

from mlx_ollama import gojson
from mlx_ollama.dialects.answers import PLAIN_JSON, REFUSAL_JSON, Refusal, Stage
from mlx_ollama.dialects.gotypes import Members, Read, anything, image, unheeded
from mlx_ollama.errors import InvalidRequest

EFFORTS: Mapping[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "ultra": "max",
    "max": "max",
}
"""What a reasoning effort means for `think` (wire-spec 8.2)."""

ABOUT_THE_CALLER: Mapping[str, Read] = dict.fromkeys(
    (
        "client_metadata",
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    ),
    anything,
)
"""Fields of OpenAI's bodies that ask for nothing in the answer: nobody heeds them, and nobody has to be told."""

STREAM_OPTIONS: Mapping[str, Read] = {"include_obfuscation": unheeded(False)}

_ROLES = {"developer": "system"}

_ERROR_TYPES = {400: "invalid_request_error", 401: "invalid_request_error", 404: "not_found_error"}
_ERROR_CODES = {401: "invalid_api_key"}
_FORBIDDEN = 403

_DATA_URL = re.compile(r"data:(?:image/(?:jpeg|jpg|png|webp))?;base64,")


def role_of(given: str) -> str:
    """A role by the name that templates know it by; one that nobody knows is theirs to judge.

    The reference passes `developer` on in chats, and most templates then lose or refuse what it says.
    """
    return _ROLES.get(given.lower(), given.lower())


def ignored(members: Members) -> tuple[str, ...]:
    """The fields that are not heeded, with `tool_choice` if it asks for anything else than what happens.

    The model decides whether it calls a tool, as for `auto`; `none` is nothing else where no tools are given.
    """
    choice = members.get("tool_choice", "auto")
    kind, rest = (choice.get("type"), choice) if isinstance(choice, dict) else (choice, {})
    happens = kind == "auto" or (kind == "none" and not members.get("tools"))
    return members.ignored + (() if happens and not rest.get("disable_parallel_tool_use") else ("tool_choice",))


def think_of_effort(effort: str) -> bool | str | None:
    """What `think` a reasoning effort stands for, None where it is empty (wire-spec 8.2).

    Raises:
        InvalidRequest: for a word that is none.
    """
    if not effort:
        return None
    if effort not in EFFORTS:
        raise InvalidRequest(
            f'invalid reasoning value: "{effort}" (must be "minimal", "low", "medium", "high", "xhigh", "ultra", '
            '"max", or "none")'
        )
    return EFFORTS[effort]


def image_of_url(url: str) -> bytes:
    """The image that a `data:` URL holds.

    Raises:
        InvalidRequest: for an address on the network, or data that is no image known here.
    """
    if url.startswith(("http://", "https://")):
        raise InvalidRequest("image URLs are not currently supported, please use base64 encoded data instead")
    head = _DATA_URL.match(url)
    if head is None:
        raise InvalidRequest("invalid image input")
    try:
        return image(url[head.end() :], "")
    except InvalidRequest as error:
        raise InvalidRequest("invalid image input") from error


def arguments_of_text(text: str) -> Mapping[str, Any]:
    """The arguments of a call that are written as JSON; nothing stands for none.

    Raises:
        InvalidRequest: for text that is no JSON object.
    """
    try:
        arguments = gojson.loads(text.encode("utf-8", "replace")) if text.strip() else {}
    except gojson.GoSyntaxError as error:
        raise InvalidRequest("invalid tool call arguments") from error
    if not isinstance(arguments, dict | None):
        raise InvalidRequest("invalid tool call arguments")
    return arguments or {}


def error_object(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """An error as OpenAI words it (wire-spec 8.1)."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def refuse(status: int, message: str, stage: Stage) -> Refusal:
    """An error as OpenAI words it (wire-spec 8.1); what is refused once the body was understood ends a line (0.2)."""
    if status == _FORBIDDEN:
        # A model of Ollama's cloud is refused before the reference translates anything.
        return Refusal(gojson.dumps({"error": message}), {"content-type": REFUSAL_JSON})
    kind = _ERROR_TYPES.get(status, "api_error")
    body = gojson.dumps(error_object(message, kind, _ERROR_CODES.get(status)))
    if stage == "decoding":
        return Refusal(body, {"content-type": REFUSAL_JSON})
    return Refusal(body + b"\n", {"content-type": PLAIN_JSON})
