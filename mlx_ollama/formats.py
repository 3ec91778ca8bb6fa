"""What the `format` of a request comes to (wire-spec 3.1, 3.2)."""

import json
from typing import Any

from mlx_ollama import gojson
from mlx_ollama.errors import InvalidRequest, WorkerError

ANY_OBJECT = '{"type":"object"}'
"""The schema for which `format: "json"` is short."""

LARGEST_SCHEMA_BYTES = 256 * 1024


def schema_of(format_: Any) -> str:
    """The JSON schema that an answer is held to, as text; empty for none.

    Raises:
        WorkerError: for what is neither "json" nor an object; the reference finds that out while generating, too.
        InvalidRequest: for what is too large.
    """
    if format_ is None or format_ == "":
        return ""
    if format_ == "json":
        return ANY_OBJECT
    # What is far too large is not written first: everybody would wait.
    written = gojson.dumps(format_) if _least_size(format_) <= LARGEST_SCHEMA_BYTES else None
    if written is None or len(written) > LARGEST_SCHEMA_BYTES:
        raise InvalidRequest(f"invalid format: more than {LARGEST_SCHEMA_BYTES} bytes")
    if not isinstance(format_, dict):
        quoted = json.dumps(written.decode(), ensure_ascii=False)
        raise WorkerError(f'invalid format: {quoted}; expected "json" or a valid JSON Schema object')
    return written.decode()


def _least_size(value: Any) -> int:
    """The bytes that a value takes when written, or fewer; what is over the limit is not looked at any further."""
    size, left = 0, [value]
    while left and size <= LARGEST_SCHEMA_BYTES:
        one = left.pop()
        size += 1 + (len(one) if isinstance(one, str | list | dict) else 0)
        if size > LARGEST_SCHEMA_BYTES:
            break
        if isinstance(one, dict):
            size += sum(map(len, one))
            left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)
    return size
