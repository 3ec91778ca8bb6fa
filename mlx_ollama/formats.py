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
        InvalidRequest: for an object that is too large or cannot be written.
    """
    if format_ is None or format_ == "":
        return ""
    if format_ == "json":
        return ANY_OBJECT
    try:
        written = gojson.dumps(format_).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"invalid format: {error}") from error
    if len(written) > LARGEST_SCHEMA_BYTES:
        raise InvalidRequest(f"invalid format: {len(written)} bytes are more than {LARGEST_SCHEMA_BYTES}")
    if not isinstance(format_, dict):
        quoted = json.dumps(written, ensure_ascii=False)
        raise WorkerError(f'invalid format: {quoted}; expected "json" or a valid JSON Schema object')
    return written
