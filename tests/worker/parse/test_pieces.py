"""The parts that parsers are made of."""

# ruff: noqa: RUF001 - some tags have these characters

import time
from typing import Any

import pytest

from mlx_ollama.worker.parse import foreign
from mlx_ollama.worker.parse.brackets import Brackets
from mlx_ollama.worker.parse.deepseek import deepseek_calls
from mlx_ollama.worker.parse.fenced import Reader
from mlx_ollama.worker.parse.foreign import foreign_reader
from mlx_ollama.worker.parse.json_value import json_value
from mlx_ollama.worker.parse.markup import keyed_reader
from mlx_ollama.worker.parse.toolbox import Toolbox
from tests.worker.parse.feeding import GET_W, TOOLS


@pytest.mark.parametrize(
    ("text", "length", "broken"),
    [
        ('{"a": [1, {"b": "}]\\"{"}]} x', 26, False),
        ("[true, -1.5e3, null]", 20, False),
        ('{"a": 1', None, False),
        ("{'a'", 1, True),
        ("{]", 1, True),
        ("[" * 101, 100, True),
    ],
)
def test_where_json_ends(text: str, length: int | None, broken: bool) -> None:
    whole, single = Brackets(), Brackets()
    assert (whole.add(text), whole.broken) == (length, broken)
    ended = next((at for at, character in enumerate(text) if single.add(character) is not None), None)
    assert ended == (length if broken or length is None else length - 1)


def test_json_values() -> None:
    assert json_value('{"a": "x\ny", "n": 12345678901234567890}') == {"a": "x\ny", "n": 12345678901234567890.0}
    for text in ("NaN", "{", '{"a":1} x', "[" * 100_000):
        with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
            json_value(text)


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        ({"type": "string"}, "5", "5"),
        ({"type": "integer"}, " 5 ", 5),
        ({"type": "integer"}, "5.0", 5),
        ({"type": "integer"}, "five", "five"),
        ({"type": "number"}, "5", 5),
        ({"type": "number"}, "5.5", 5.5),
        ({"type": "boolean"}, "True", True),
        ({"type": "boolean"}, "1", "1"),
        ({"type": ["integer", "null"]}, "None", None),
        ({"type": ["string", "null"]}, "null", None),
        ({"anyOf": [{"type": "integer"}, {"type": "array"}]}, "[1]", [1]),
        ({"type": "array"}, "(1, 'a')", [1, "a"]),
        ({"type": "array"}, "[1, __import__('os')]", "[1, __import__('os')]"),
        ({"type": "object"}, "{'a': True}", {"a": True}),
        ({"enum": [1, 2]}, "2", 2),
        ({"enum": ["1", "2"]}, "2", "2"),
        ({}, "2", "2"),
        (None, "2", "2"),
    ],
)
def test_text_becomes_what_the_schema_wants(schema: dict[str, Any] | None, text: str, expected: object) -> None:
    toolbox = Toolbox([{"function": {"name": "f", "parameters": {"properties": {"a": schema}}}}])
    assert toolbox.typed("f", {"a": text}) == {"a": expected}


def test_what_the_schema_does_not_tell_may_be_guessed() -> None:
    toolbox = Toolbox(TOOLS)
    assert toolbox.typed("get_w", {"x": "[1]", "y": "no"}, guess=True) == {"x": [1], "y": "no"}
    assert toolbox.typed("get_w", {"city": None, "zip": None}) == {"city": "null", "zip": None}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("other", {}),
        (None, {}),
        (["get_w"], {}),
        ("get_w", {}),
        ("get_w", None),
        ("get_w", "Rome"),
        ("get_w", [1]),
        ("get_w", {"city": {1, 2}}),
        ("get_w", {"city": "\ud800"}),
        ("get_w", {1: 2}),
    ],
)
def test_what_is_no_call(name: object, arguments: object) -> None:
    assert Toolbox(TOOLS).call(name, arguments) is None


def test_odd_tools_offer_nothing() -> None:
    toolbox = Toolbox([{}, {"function": 3}, {"function": {"name": "f", "parameters": 3}}])
    assert toolbox.names == ("f",)
    assert toolbox.call("functions.f", '{"a": 1}')


def test_other_readers_may_fail_as_they_like() -> None:
    def read(result: Any, kind: str = "x", text: str = "") -> int:
        def parse(_: str, __: Any) -> Any:
            if isinstance(result, Exception):
                raise result
            return result

        return len(foreign_reader(kind, parse)(text, Toolbox((GET_W,))))

    call = {"name": "get_w", "arguments": {"city": "Rome"}}
    assert read(call) == 1
    assert read([call, call]) == 2
    assert read([call, {"name": "other", "arguments": {}}]) == 0
    assert read([call], "kimi_k2", "<|tool_call_begin|><|tool_call_begin|>") == 0
    for odd in (IndexError(), None, "text", [], [None], {"name": "get_w"}):
        assert read(odd) == 0


def test_other_readers_are_given_no_more_than_they_can_read() -> None:
    def read(text: str, kind: str = "x") -> int:
        call = {"name": "get_w", "arguments": {"city": "Rome"}}
        return len(foreign_reader(kind, lambda text, tools: call)(text, Toolbox((GET_W,))))

    assert read("a" * foreign.LONGEST_CALLS) == 1
    assert read("a" * (foreign.LONGEST_CALLS + 1)) == 0
    assert read("call:f{" * foreign.MOST_CALLS, "gemma4") == 1
    assert read("call:f{" * (foreign.MOST_CALLS + 1), "gemma4") == 0


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (deepseek_calls, f"<｜tool▁call▁begin｜>get_w{'<｜tool▁sep｜>' * 20_000}"),
        (keyed_reader(), f"get_w{'<arg_key>city</arg_key><arg_value>' * 10_000}"),
        (keyed_reader("longcat_"), f"get_w<longcat_arg_key>{'</longcat_arg_key><longcat_arg_value>' * 10_000}"),
    ],
)
def test_a_call_without_an_end_takes_no_longer_than_it_is_long(read: Reader, text: str) -> None:
    began = time.process_time()
    assert read(text, Toolbox(TOOLS)) == ()
    assert time.process_time() - began < 1
