"""A caller's JSON schema, made fit for the grammar compiler."""

from collections.abc import Iterator, Mapping
from typing import Any

LARGEST_COUNT = 10_000
"""The compiler unrolls counts: at a hundred million items it takes all memory there is."""

_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMAS = ("items", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames")
_JOINED_WITH = ("anyOf", "oneOf", "allOf", "$ref", "if", "not", "dependentSchemas", "patternProperties")


def prepared(schema: Any) -> Any:
    """The schema with `additionalProperties: false` where an object lists its properties and says nothing of others.

    So does the reference; a small model would otherwise invent members without end. What is joined with other schemas
    (a `$ref` or `anyOf` beside the properties, and what these lead to) stays open: closing one part would forbid what
    the other wants.

    Raises:
        ValueError: for counts that no answer can have.
    """
    joined = set(_joined(schema))
    for node in _schemas(schema):
        for name in _COUNTS:
            if isinstance(node.get(name), int | float) and node[name] > LARGEST_COUNT:
                raise ValueError(f"{name} above {LARGEST_COUNT}")
        if isinstance(node.get("properties"), dict) and id(node) not in joined:
            node.setdefault("additionalProperties", False)
    return schema


def _joined(root: Any) -> Iterator[int]:
    """Identities of the nodes that are combined with another, so that neither is the whole truth."""
    waiting = [node for node in _schemas(root) if "properties" in node and any(word in node for word in _JOINED_WITH)]
    waiting += [node for node in _schemas(root) if any(word in node for word in ("allOf", "not", "if"))]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield id(node)
        waiting += [part for word in _SCHEMA_LISTS for part in _list(node.get(word)) if isinstance(part, dict)]
        waiting += [node[word] for word in ("not", "if", "then", "else") if isinstance(node.get(word), dict)]
        waiting += [part for part in _dict(node.get("dependentSchemas")).values() if isinstance(part, dict)]
        if (target := _target(root, node.get("$ref"))) is not None:
            waiting.append(target)


def _schemas(root: Any) -> Iterator[dict[str, Any]]:
    """Every schema in a schema, however deep; what is only a value (`const`, `enum`, `default`) is none."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, dict):
            continue
        yield node
        waiting += [node[word] for word in _SCHEMAS if word in node]
        waiting += [part for word in _SCHEMA_LISTS for part in _list(node.get(word))]
        waiting += [part for word in _SCHEMA_MAPS for part in _dict(node.get(word)).values()]


def _target(root: Any, reference: Any) -> dict[str, Any] | None:
    """What a reference within the document leads to."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    node = root
    for part in reference[1:].strip("/").split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        if key:
            node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, dict) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
