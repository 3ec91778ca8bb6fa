"""Bodies of `multipart/form-data` (RFC 7578), with the words that Go finds for one that is none (wire-spec 8.7)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mlx_ollama.errors import InvalidRequest

MOST_PARTS = 1000
LARGEST_HEAD_BYTES = 16 * 1024
_LINE_END = b"\r\n"
_DISPOSITION = re.compile(r"^content-disposition:(.*)", re.IGNORECASE | re.MULTILINE)
_PARAMETER = re.compile(r';\s*([\w*-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))')
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True)
class Form:
    """The parts of a form by name: texts, and those that came as files. The first of a name counts."""

    fields: Mapping[str, str]
    files: Mapping[str, bytes]


def read_form(body: bytes, content_type: str) -> Form:
    """The form that a body of this `Content-Type` holds.

    Raises:
        InvalidRequest: for a body that is no form, or has too many parts or too large headers.
    """
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for head, content in _parts(body, _boundary(content_type)):
        found = _DISPOSITION.search(head.decode("utf-8", "replace"))
        told = _parameters(found[1]) if found else {}
        if told.get("filename") or told.get("filename*"):
            files.setdefault(told.get("name", ""), content)
        else:
            fields.setdefault(told.get("name", ""), content.decode("utf-8", "replace"))
    return Form(fields, files)


def _boundary(content_type: str) -> bytes:
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise _no_form("request Content-Type isn't multipart/form-data")
    boundary = _parameters(content_type).get("boundary")
    if not boundary:
        raise _no_form("no multipart boundary param in Content-Type")
    return boundary.encode("latin-1", "replace")


def _parameters(header: str) -> dict[str, str]:
    """What follows the first `;` of a header, by name in lower case."""
    return {name.lower(): bare or _ESCAPED.sub(r"\1", quoted) for name, quoted, bare in _PARAMETER.findall(header)}


def _parts(body: bytes, boundary: bytes) -> list[tuple[bytes, bytes]]:
    """Headers and content of each part; what stands before the first mark and after the last one is nobody's."""
    _, *pieces = (_LINE_END + body).split(_LINE_END + b"--" + boundary, MOST_PARTS + 1)
    last = next((at for at, piece in enumerate(pieces) if piece.startswith(b"--")), None)
    if last is None:
        raise _no_form("multipart: message too large" if len(pieces) > MOST_PARTS else "multipart: NextPart: EOF")
    split = [piece.partition(2 * _LINE_END) for piece in pieces[:last]]
    if any(len(head) > LARGEST_HEAD_BYTES for head, _, _ in split):
        raise _no_form("multipart: message too large")
    return [(head, content) for head, _, content in split]


def _no_form(why: str) -> InvalidRequest:
    return InvalidRequest(f"failed to parse multipart form: {why}")
