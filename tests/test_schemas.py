import json

import pytest

from mlx_ollama.errors import InvalidRequest
from mlx_ollama.gotemplate.tools import as_go_tools
from mlx_ollama.gotemplate.values import to_json
from mlx_ollama.schemas import known_parts


def test_unknown_keywords_are_dropped_and_order_is_kept() -> None:
    tool = {
        "strict": True,
        "type": "function",
        "function": {
            "description": "d",
            "name": "f",
            "strict": True,
            "parameters": {
                "additionalProperties": False,
                "$defs": {"x": {"format": "y"}},
                "required": ["z"],
                "type": "object",
                "properties": {
                    "z": {"type": "array", "items": {"type": "string", "format": "q"}, "enum": ["a", 1], "default": 3},
                    "a": {"anyOf": [{"type": "string", "minLength": 1}, {"type": "null"}], "title": "A"},
                    "o": {"type": "object", "properties": {"b": {"type": "integer", "minimum": 1}}, "required": ["b"]},
                },
            },
        },
    }
    assert json.dumps(known_parts(tool)) == json.dumps(
        {
            "type": "function",
            "function": {
                "name": "f",
                "description": "d",
                "parameters": {
                    "type": "object",
                    "$defs": {"x": {"format": "y"}},
                    "required": ["z"],
                    "properties": {
                        "z": {"type": "array", "items": {"type": "string", "format": "q"}, "enum": ["a", 1]},
                        "a": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                        "o": {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]},
                    },
                },
            },
        }
    )


@pytest.mark.parametrize("tool", [{}, {"function": 3}, {"function": {"parameters": []}}, {"function": {"name": None}}])
def test_odd_definitions_do_not_hurt(tool: dict[str, object]) -> None:
    assert known_parts(tool) == {key: value if value != {"name": None} else {} for key, value in tool.items()}


def test_deep_schemas_are_refused() -> None:
    schema: dict[str, object] = {}
    for _ in range(5000):
        schema = {"properties": {"a": schema}}
    with pytest.raises(InvalidRequest, match="exceeded max depth"):
        known_parts({"function": {"parameters": schema}})


def test_go_templates_see_the_same() -> None:
    parameters = {"type": "object", "x": 1, "properties": {"a": {"type": ["integer", "null"], "default": 1}, "b": {}}}
    for tool in (
        {"type": "function", "function": {"name": "f", "parameters": parameters}},
        {},
        {"function": {"name": "f"}},
    ):
        assert to_json(as_go_tools([known_parts(tool)])) == to_json(as_go_tools([tool]))
