"""The `format` of a request as the schema that a worker gets."""

import time
from typing import Any

import pytest

from mlx_ollama import gojson
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.formats import LARGEST_SCHEMA_BYTES, schema_of

HEAD = len('{"enum":[]}')


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [0.5] * 1_000_000},
        {"enum": ["a"] * 1_000_000},
        {"properties": {f"{at:07}": {} for at in range(100_000)}},
        {"description": "x" * 1_000_000},
        {"anyOf": [{"enum": [1] * 100}] * 10_000},
    ],
    ids=["numbers", "texts", "names", "one text", "nested"],
)
def test_what_is_too_large_is_refused_before_it_is_written(schema: Any) -> None:
    began = time.process_time()
    with pytest.raises(InvalidRequest, match=f"^invalid format: more than {LARGEST_SCHEMA_BYTES} bytes$"):
        schema_of(schema)
    assert time.process_time() - began < 0.3


def test_the_limit_is_in_bytes_as_they_are_written() -> None:
    most = (LARGEST_SCHEMA_BYTES - HEAD + 1) // 2
    fits = {"enum": [1] * most}
    assert schema_of(fits) == gojson.dumps(fits).decode()
    for over in (
        {"enum": [1] * (most + 1)},
        {"a": "<" * (LARGEST_SCHEMA_BYTES // 6)},
        {"a": "é" * (LARGEST_SCHEMA_BYTES // 2)},
    ):
        with pytest.raises(InvalidRequest, match="more than"):
            schema_of(over)
