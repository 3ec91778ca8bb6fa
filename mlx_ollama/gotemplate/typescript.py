"""`toTypeScriptType`: the type of a tool's parameter as TypeScript spells it (wire-spec 12.2)."""

from mlx_ollama.gotemplate.values import Struct

PROPERTY_TYPE = "api.ToolProperty"

_NAMES = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "array": "any[]",
    "object": "Record<string, any>",
    "null": "null",
}


def typescript_type(value: object) -> str:
    """`string | number` for a tool property, `any` for whatever else."""
    if not isinstance(value, Struct) or value.name != PROPERTY_TYPE:
        return "any"
    choices, names = value.fields["AnyOf"], value.fields["Type"]
    if isinstance(choices, list) and choices:
        return " | ".join(map(typescript_type, choices))
    if isinstance(names, list) and names:
        return " | ".join(_NAMES.get(str(name), "any") for name in names)
    return "any"
