"""Fuzzing: whatever bytes come, a decoder makes a call of them or refuses them in words."""

import importlib.util
import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.decoding import BOUNDARY, NAMES, decode, receive
from tests.support.server import clean_environment

RUNS = 20_000
LEAST_REACHED = 300
"""Edges of our code. Without bodies to begin with it is half as many."""

FIELDS = tuple(
    """
    model prompt messages role content text type options format think stream input suffix images
    keep_alive context template stop max_tokens max_completion_tokens temperature top_p seed tools
    tool_choice function name description parameters arguments tool_calls tool_call_id id index
    response_format json_schema schema strict properties required items enum anyOf image_url url
    input_audio data source media_type base64 thinking signature tool_use tool_use_id tool_result
    is_error system instructions reasoning effort summary previous_response_id metadata encoding_format
    dimensions truncate from files adapters license quantize parameters system digest insecure username
    password destination verbose logprobs top_logprobs n logit_bias stream_options include_usage
    output_config call_id output function_call function_call_output raw
    """.split()  # noqa: SIM905 - a hundred words in quotes read worse
)
KINDS = [
    *FIELDS,
    "user",
    "assistant",
    "developer",
    "tool",
    "message",
    "input_text",
    "image",
    "text",
    "object",
    "string",
]

words = st.sampled_from(KINDS) | st.text(max_size=8)
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.sampled_from([1e300, -1, 2**63, "5m", "high"])
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from(FIELDS), values, min_size=1, max_size=6)


@pytest.mark.parametrize("name", NAMES, ids=" ".join)
@settings(max_examples=80)
@given(body=objects)
def test_any_json(name: tuple[str, str], body: Any) -> None:
    decode(name, json.dumps({"model": "m", **body}).encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("name", NAMES, ids=" ".join)
@settings(max_examples=40)
@given(body=st.binary(max_size=200), cut=st.integers(0, 60), whole=objects)
def test_any_bytes(name: tuple[str, str], body: bytes, cut: int, whole: Any) -> None:
    decode(name, body)
    decode(name, json.dumps(whole).encode()[:cut] + body)


@settings(max_examples=100)
@given(head=st.text(max_size=40), name=words, content=st.binary(max_size=100))
def test_any_form(head: str, name: str, content: bytes) -> None:
    form = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name={name}{head}\r\n\r\n".encode() + content
    for end in (b"", b"\r\n", f"\r\n--{BOUNDARY}--\r\n".encode()):
        decode(("POST", "/v1/audio/transcriptions"), form + end)


@settings(max_examples=150)
@given(kind=st.integers(-20, 20), fields=st.lists(values | objects, max_size=8))
def test_any_frame(kind: int, fields: list[Any]) -> None:
    body = json.dumps([kind, *fields]).encode()
    receive(struct.pack("!I", len(body)) + body)


@settings(max_examples=100)
@given(data=st.binary(max_size=100))
def test_any_bytes_of_a_worker(data: bytes) -> None:
    receive(data)
    receive(struct.pack("!I", len(data)) + data)


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_bytes_that_reach_new_code(tmp_path: Path) -> None:
    fuzz = [
        sys.executable,
        "-m",
        "tests.faults.fuzz",
        str(tmp_path),
        f"-runs={RUNS}",
        "-seed=1",
        "-max_len=600",
        "-timeout=20",
    ]
    env = clean_environment() | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(fuzz, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    reached = re.findall(r"cov: (\d+)", done.stderr)
    assert int(reached[-1]) > LEAST_REACHED, done.stderr[-3000:]
