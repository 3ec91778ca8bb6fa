"""The tools of a request: which calls are calls of one, and of what type an argument is (wire-spec 4.1, 10.3)."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import orjson

from mlx_ollama.types import ToolCall
from mlx_ollama.worker.parse.json_value import json_value

Schema = Mapping[str, Any]

_WORD = re.compile(r"[\w.\-]+")
_LONGEST_LITERAL = 1 << 16
_LEVELS_AROUND = 32
_TRUTH = {"true": True, "false": False}
_KINDS = ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (Mapping, "object"), (list, "array"))


class Toolbox:
    """The tools that a caller offers, by name."""

    def __init__(self, tools: Sequence[Schema]) -> None:
        functions = [function for tool in tools if isinstance(function := tool.get("function"), Mapping)]
        self._parameters = {
            str(function["name"]): _mapping(function.get("parameters")) for function in functions if "name" in function
        }

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._parameters)

    @cached_property
    def all_strings(self) -> list[dict[str, Any]]:
        """The tools, with every argument declared a string: a parser given these leaves the types to us."""
        return [
            {"type": "function", "function": {"name": name, "parameters": {"properties": properties}}}
            for name in self.names
            for properties in [{key: {"type": "string"} for key in self._properties(name)}]
        ]

    def mentioned(self, text: str) -> str:
        """The first tool that `text` names; empty if it names none."""
        return next((word for word in _WORD.findall(text) if word in self._parameters), "")

    def call(self, name: object, arguments: object) -> ToolCall | None:
        """The call; None for what is none.

        That is an unknown tool, arguments that are no object or cannot be written as JSON, and no arguments where the
        tool cannot do without: something was there then, and was not understood.
        """
        if isinstance(name, str) and name not in self._parameters:
            name = name.strip().removeprefix("functions.")
        if not isinstance(name, str) or name not in self._parameters:
            return None
        if isinstance(arguments, str):
            arguments = _decoded(arguments or "{}")
        members = {} if arguments is None else arguments
        if not isinstance(members, Mapping) or not _is_json(members):
            return None
        if not members and self._parameters[name].get("required"):
            return None
        return ToolCall(name, members)

    def typed(self, name: str, texts: Mapping[str, Any], *, guess: bool = False) -> dict[str, Any]:
        """Arguments of a format that has only strings, each as the tool's schema wants it.

        `guess`: what the schema does not tell is JSON where it can be.
        """
        properties = self._properties(name)
        return {key: _fit(value, _types(properties.get(key), guess=guess)) for key, value in texts.items()}

    def _properties(self, name: str) -> Schema:
        return _mapping(self._parameters.get(name, {}).get("properties"))


def _fit(value: Any, types: frozenset[str]) -> Any:
    if value is None and types == {"string"}:
        return "null"
    if not isinstance(value, str):
        return value
    if "string" in types:
        return None if "null" in types and value == "null" else value
    for candidate in _readings(value):
        kind = _kind(candidate)
        if kind in types or (kind == "integer" and "number" in types):
            return candidate
    return value


def _readings(text: str) -> Iterator[Any]:
    """What a text may stand for, the likeliest first."""
    bare = text.strip()
    if bare.lower() in _TRUTH:
        yield _TRUTH[bare.lower()]
    if bare.lower() in ("null", "none"):
        yield None
    number = _decoded(bare)
    if isinstance(number, float) and number.is_integer():
        yield int(number)
    yield number
    if bare[:1] in "{[(" and len(bare) <= _LONGEST_LITERAL:
        yield _literal(bare)


def _types(schema: object, *, guess: bool) -> frozenset[str]:
    """The JSON types that a schema allows; without a word about them, strings or whatever is there."""
    found = frozenset(_declared(schema))
    if found:
        return found
    return frozenset(kind for _, kind in _KINDS if kind != "string") | {"null"} if guess else frozenset({"string"})


def _declared(schema: object) -> Iterator[str]:
    if not isinstance(schema, Mapping):
        return
    kinds = schema.get("type")
    yield from [kinds] if isinstance(kinds, str) else filter(_is_text, _list(kinds))
    yield from (kind for kind in map(_kind, _list(schema.get("enum"))) if kinds is None)
    for key in ("anyOf", "oneOf", "allOf"):
        for choice in _list(schema.get(key)):
            yield from _declared(choice)


def _kind(value: object) -> str:
    return next((kind for python, kind in _KINDS if isinstance(value, python)), "null")


def _decoded(text: str) -> Any:
    """The JSON value that `text` is, else the text itself."""
    try:
        return json_value(text)
    except ValueError:
        return text


def _literal(text: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return list(value) if isinstance(value, tuple) else value


def _is_json(value: object) -> bool:
    """Whether the value can be written inside a frame; what other libraries read may hold anything."""
    for _ in range(_LEVELS_AROUND):
        value = [value]
    try:
        orjson.dumps(value, default=float)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _mapping(value: object) -> Schema:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
