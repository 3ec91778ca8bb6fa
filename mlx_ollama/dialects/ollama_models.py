"""The store's part of Ollama's dialect: create, copy, delete, pull, push (wire-spec section 6)."""

from collections.abc import Mapping
from typing import Any

from mlx_ollama import gojson
from mlx_ollama.dialects.gotypes import (
    Members,
    Read,
    Struct,
    anything,
    array_of,
    boolean,
    mapping,
    object_of,
    string,
)
from mlx_ollama.dialects.ollama import MESSAGE, message_of
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.types import Copy, Create, Delete, Progress, Pull, Push


def _strings(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise InvalidRequest(
            f"json: cannot unmarshal {gojson.kind(value)} into Go struct field {where} of type map[string]string"
        )
    return {key: "" if member is None else string(member, where) for key, member in value.items()}


_NAMED: dict[str, Read] = {"model": string, "name": string}
_CREATE = Struct(
    "CreateRequest",
    {
        **_NAMED,
        "stream": boolean,
        "from": string,
        "files": _strings,
        "draft_files": _strings,
        "adapters": _strings,
        "template": string,
        "license": anything,
        "system": string,
        "parameters": mapping,
        "messages": array_of(object_of(MESSAGE, "api.Message"), "[]api.Message", zero={}),
        "quantize": string,
        "quantization": string,
        "draft_quantize": string,
        "renderer": string,
        "parser": string,
        "requires": string,
        "remote_host": string,
        "info": mapping,
    },
)
_COPY = Struct("CopyRequest", {"source": string, "destination": string})
_DELETE = Struct("DeleteRequest", _NAMED)
_TRANSFER: dict[str, Read] = {**_NAMED, "insecure": boolean, "stream": boolean}
_PULL = Struct("PullRequest", {**_TRANSFER, "username": string, "password": string})
_PUSH = Struct("PushRequest", {**_TRANSFER, "username": string, "password": string})
_TAKEN_AS_THEY_ARE = (
    *("stream", "files", "draft_files", "adapters", "template", "license", "system", "parameters", "draft_quantize"),
    *("renderer", "parser", "requires", "remote_host", "info"),
)


def decode_create(body: bytes, headers: Mapping[str, str]) -> Create:
    """`POST /api/create` (wire-spec 6.4)."""
    members = _CREATE.read(body)
    return Create(
        model=_model(members),
        ignored=members.ignored,
        source=members.get("from", ""),
        quantize=members.get("quantize") or members.get("quantization", ""),
        messages=tuple(message_of(message) for message in members.get("messages", ())),
        **{key: members[key] for key in _TAKEN_AS_THEY_ARE if key in members},
    )


def decode_copy(body: bytes, headers: Mapping[str, str]) -> Copy:
    """`POST /api/copy` (wire-spec 6.5)."""
    members = _COPY.read(body)
    names = {"model": members.get("source", ""), "destination": members.get("destination", "")}
    return Copy(**names, ignored=members.ignored)


def decode_delete(body: bytes, headers: Mapping[str, str]) -> Delete:
    """`DELETE /api/delete` (wire-spec 6.6)."""
    members = _DELETE.read(body)
    return Delete(model=_model(members), ignored=members.ignored)


def decode_pull(body: bytes, headers: Mapping[str, str]) -> Pull:
    """`POST /api/pull` (wire-spec 6.2)."""
    return Pull(**_transfer(_PULL.read(body)))


def decode_push(body: bytes, headers: Mapping[str, str]) -> Push:
    """`POST /api/push` (wire-spec 6.3)."""
    return Push(**_transfer(_PUSH.read(body)))


def encode_progress(progress: Progress) -> bytes:
    """One line of a job; what is zero or empty is left out (wire-spec 6.1)."""
    counts = {"digest": progress.digest, "total": progress.total, "completed": progress.completed}
    return gojson.dumps({"status": progress.status, **{key: value for key, value in counts.items() if value}})


def encode_failure(message: str) -> bytes:
    """The last line of a job that failed."""
    return gojson.dumps({"error": message})


def _model(members: Mapping[str, Any]) -> str:
    return str(members.get("model") or members.get("name", ""))


def _transfer(members: Members) -> dict[str, Any]:
    given = {key: members[key] for key in ("insecure", "stream") if key in members}
    return {"model": _model(members), "ignored": members.ignored, **given}
