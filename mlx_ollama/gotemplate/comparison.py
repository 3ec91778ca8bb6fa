"""`eq`, `ne`, `lt`, `le`, `gt`, `ge`: Go compares values of one basic kind only."""

from collections.abc import Mapping

from mlx_ollama.gotemplate.errors import FunctionError
from mlx_ollama.gotemplate.values import Struct, is_nil, type_name
from mlx_ollama.gotemplate.verbs import format_value


def equals_one(first: object, *others: object) -> bool:
    """Whether `first` equals any of `others`.

    Raises:
        FunctionError: two values cannot be compared.
    """
    if not others:
        raise FunctionError("missing argument for comparison")
    return any(equals(first, other) for other in others)


def equals(first: object, second: object) -> bool:
    """Whether the two are equal; see `equals_one`."""
    if first is None or second is None:
        return _is_nothing(first) and _is_nothing(second)
    first_kind, second_kind = _basic_kind(first), _basic_kind(second)
    if first_kind != second_kind:
        raise _incompatible(first, second)
    return first == second if first_kind else _is_same(first, second)


def is_less(first: object, second: object) -> bool:
    """Whether `first` comes before `second`.

    Raises:
        FunctionError: the two have no common order.
    """
    first_kind, second_kind = _basic_kind(first), _basic_kind(second)
    if not first_kind or not second_kind:
        raise FunctionError("invalid type for comparison")
    if first_kind != second_kind:
        raise _incompatible(first, second)
    if isinstance(first, str) and isinstance(second, str):
        return first < second
    if isinstance(first, bool) or not isinstance(first, int | float) or not isinstance(second, int | float):
        raise FunctionError("invalid type for comparison")
    return first < second


def is_at_most(first: object, second: object) -> bool:
    """Whether `first` comes before `second` or equals it; see `is_less`."""
    return is_less(first, second) or equals(first, second)


def _basic_kind(value: object) -> str:
    match value:
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float"
        case str():
            return "string"
    return ""


def _is_nothing(value: object) -> bool:
    return value is None or is_nil(value)


def _is_same(first: object, second: object) -> bool:
    if _shape(first) != _shape(second):
        raise FunctionError(
            f"non-comparable types {format_value(first, 's')}: {type_name(first)}, "
            f"{type_name(second)}: {format_value(second)}",
        )
    if is_nil(first) or is_nil(second):
        return is_nil(first) and is_nil(second)
    if _shape(second) != "pointer":
        raise FunctionError(f"non-comparable type {format_value(second, 's')}: {type_name(second)}")
    return first is second


def _shape(value: object) -> str:
    match value:
        case Struct():
            return "pointer" if value.is_pointer else "struct"
        case Mapping():
            return "map"
    return "slice"


def _incompatible(first: object, second: object) -> FunctionError:
    return FunctionError(f"incompatible types for comparison: {type_name(first)} and {type_name(second)}")
