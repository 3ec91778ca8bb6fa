"""Bodies of `multipart/form-data` (RFC 7578), with the words that Go finds for one that is none (wire-spec 8.7)."""

from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser
from email.utils import collapse_rfc2231_value

from mlx_ollama.errors import InvalidRequest

MOST_PARTS = 1000
LARGEST_HEAD_BYTES = 16 * 1024
_PART_END = b"\r\n"


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
        disposition = BytesHeaderParser().parsebytes(head.strip() + b"\r\n\r\n")
        name = disposition.get_param("name", "", "content-disposition")
        name = collapse_rfc2231_value(name) if name else ""
        if disposition.get_filename():
            files.setdefault(name, content)
        else:
            fields.setdefault(name, content.decode("utf-8", "replace"))
    return Form(fields, files)


def _boundary(content_type: str) -> bytes:
    header = Message()
    header["content-type"] = content_type
    if not content_type or header.get_content_type() != "multipart/form-data":
        raise _no_form("request Content-Type isn't multipart/form-data")
    boundary = header.get_boundary()
    if not boundary:
        raise _no_form("no multipart boundary param in Content-Type")
    return boundary.encode("latin-1", "replace")


def _parts(body: bytes, boundary: bytes) -> list[tuple[bytes, bytes]]:
    """Headers and content of each part; what stands before the first mark and after the last one is nobody's."""
    _, *pieces = (_PART_END + body).split(_PART_END + b"--" + boundary, MOST_PARTS + 1)
    last = next((at for at, piece in enumerate(pieces) if piece.startswith(b"--")), None)
    if last is None:
        raise _no_form("multipart: message too large" if len(pieces) > MOST_PARTS else "multipart: NextPart: EOF")
    split = [piece.partition(2 * _PART_END) for piece in pieces[:last]]
    if any(len(head) > LARGEST_HEAD_BYTES for head, _, _ in split):
        raise _no_form("multipart: message too large")
    return [(head, content) for head, _, content in split]


def _no_form(why: str) -> InvalidRequest:
    return InvalidRequest(f"failed to parse multipart form: {why}")
