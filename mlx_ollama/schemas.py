"""What of a tool's definition models get to see (wire-spec 4.1)."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from mlx_ollama.errors import InvalidRequest

Read: TypeAlias = Callable[[Any], Any]


def known_parts(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The definition without keywords that the reference does not know, properties in the order given.

    Raises:
        InvalidRequest: for schemas nested deeper than anybody reads.
    """
    try:
        return dict(_TOOL(tool))
    except RecursionError as error:
        raise InvalidRequest("exceeded max depth") from error


def _object(members: Mapping[str, Read]) -> Read:
    """A reader of an object that keeps these members, in this order."""

    def read(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: reader(value[name]) for name, reader in members.items() if value.get(name) is not None}

    return read


def _whole(value: Any) -> Any:
    return value


def _properties(value: Any) -> Any:
    return {name: _property(schema) for name, schema in value.items()} if isinstance(value, Mapping) else value


def _choices(value: Any) -> Any:
    return [_property(schema) for schema in value] if isinstance(value, list) else value


def _property(value: Any) -> Any:
    return _PROPERTY(value)


_PROPERTY = _object(
    {
        "anyOf": _choices,
        "type": _whole,
        "items": _whole,
        "description": _whole,
        "enum": _whole,
        "properties": _properties,
        "required": _whole,
    }
)
_PARAMETERS = _object({"type": _whole, "$defs": _whole, "items": _whole, "required": _whole, "properties": _properties})
_FUNCTION = _object({"name": _whole, "description": _whole, "parameters": _PARAMETERS})
_TOOL = _object({"type": _whole, "items": _whole, "function": _FUNCTION})
