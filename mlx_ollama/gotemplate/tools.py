"""Tools as templates see them (wire-spec 4.1, 12.2).

Schema keywords that the shapes below do not name are dropped, empty optional ones are left out of the JSON, and the
properties come sorted by name.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mlx_ollama.gotemplate.messages import as_go_json
from mlx_ollama.gotemplate.typescript import PROPERTY_TYPE
from mlx_ollama.gotemplate.values import Array, Boxed, Ordered, Struct, Table, is_true, to_json
from mlx_ollama.gotemplate.verbs import format_value

Schema = Mapping[str, Any]


class _Member(NamedTuple):
    """A field, the key it has in JSON, its value, and whether JSON leaves it out when empty."""

    name: str
    key: str
    value: object
    is_optional: bool = False

    @property
    def is_written(self) -> bool:
        is_empty = self.value.value is None if isinstance(self.value, Boxed) else not is_true(self.value)
        return not (self.is_optional and is_empty)


def as_go_tools(tools: Iterable[Schema]) -> Array:
    """The value of `.Tools`."""
    return Array(map(_tool, tools), "template.templateTools", text=to_json)


def _tool(tool: Schema) -> Struct:
    return _struct(
        "template.templateTool",
        _Member("Type", "type", _text(tool.get("type"))),
        _Member("Items", "items", _anything(tool.get("items")), is_optional=True),
        _Member("Function", "function", _function(_schema(tool.get("function")))),
    )


def _function(function: Schema) -> Struct:
    return _struct(
        "template.templateToolFunction",
        _Member("Name", "name", _text(function.get("name"))),
        _Member("Description", "description", _text(function.get("description"))),
        _Member("Parameters", "parameters", _parameters(_schema(function.get("parameters")))),
    )


def _parameters(schema: Schema) -> Struct:
    return _struct(
        "template.templateToolFunctionParameters",
        _Member("Type", "type", _text(schema.get("type"))),
        _Member("Defs", "$defs", _anything(schema.get("$defs")), is_optional=True),
        _Member("Items", "items", _anything(schema.get("items")), is_optional=True),
        _Member("Required", "required", _strings(schema.get("required")), is_optional=True),
        _Member("Properties", "properties", _properties(schema.get("properties"))),
    )


def _property(schema: Schema) -> Struct:
    choices = Array(map(_property, map(_schema, _list(schema.get("anyOf")))), f"[]{PROPERTY_TYPE}")
    members = (
        _Member("AnyOf", "anyOf", choices, is_optional=True),
        _Member("Type", "type", _type(schema.get("type")), is_optional=True),
        _Member("Items", "items", _anything(schema.get("items")), is_optional=True),
        _Member("Description", "description", _text(schema.get("description")), is_optional=True),
        _Member("Enum", "enum", as_go_json(_list(schema.get("enum"))), is_optional=True),
        _Member("Properties", "properties", _properties(schema.get("properties")), is_optional=True),
        _Member("Required", "required", _strings(schema.get("required")), is_optional=True),
    )
    return _struct(PROPERTY_TYPE, *members, prints_json=False)


def _struct(type_name: str, *members: _Member, prints_json: bool = True) -> Struct:
    json = Ordered((member.key, member.value) for member in members if member.is_written)
    fields = {member.name: member.value for member in members}
    return Struct(type_name, fields, json=json, prints_json=prints_json)


def _properties(properties: object) -> Table:
    members = {name: _property(_schema(schema)) for name, schema in _schema(properties).items()}
    return Table(members, "template.templateProperties", zero=lambda: _property({}), is_nil=properties is None)


def _type(names: object) -> Array:
    """One type is a string in JSON, and prints as one."""
    several = [names] if isinstance(names, str) else _list(names)
    return Array(several, "api.PropertyType", text=_type_text, json=_type_json)


def _type_text(names: list[object]) -> str:
    return format_value(list(names)) if len(names) > 1 else "".join(map(str, names))


def _type_json(names: list[object]) -> object:
    return names[0] if len(names) == 1 else (list(names) or None)


def _anything(value: object) -> Boxed:
    return Boxed(as_go_json(value))


def _strings(names: object) -> Array:
    return Array(_list(names), "[]string")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _schema(value: object) -> Schema:
    return value if isinstance(value, Mapping) else {}
