"""`len`, `index` and `slice`."""

from collections.abc import Mapping
from itertools import pairwise

from mlx_ollama.gotemplate import gostring
from mlx_ollama.gotemplate.budget import ROOM_OF_ELEMENT, Budget
from mlx_ollama.gotemplate.errors import FunctionError
from mlx_ollama.gotemplate.values import Array, Byte, get_item, pointee, type_name, unbox

_MOST_SLICE_INDEXES = 3


def length(value: object) -> int:
    """The number of bytes of a string, or of elements."""
    target = unbox(value)
    if isinstance(target, str):
        return gostring.size(target)
    if isinstance(target, list | tuple | Mapping):
        return len(target)
    if value is None:
        raise FunctionError("reflect: call of reflect.Value.Type on zero Value")
    raise FunctionError("len of nil pointer" if target is None else f"len of type {type_name(pointee(target))}")


def index(budget: Budget, value: object, *keys: object) -> object:
    """`value[key][key]…`; a string gives bytes."""
    if unbox(value) is None:
        raise FunctionError("index of untyped nil")
    for key in map(unbox, keys):
        target = unbox(value)
        if isinstance(target, str):
            budget.take_text(target)
        value = _element(target, key)
    return value


def slice_(budget: Budget, value: object, *bounds: object) -> object:
    """`value[a:b]`; a string is cut between bytes. A bound in a box is no number to Go."""
    target = unbox(value)
    if target is None:
        raise FunctionError("slice of untyped nil")
    if len(bounds) > _MOST_SLICE_INDEXES:
        raise FunctionError(f"too many slice indexes: {len(bounds)}")
    if isinstance(target, str):
        return budget.take_text(_slice_text(target, bounds))
    if not isinstance(target, list | tuple):
        raise FunctionError(f"can't slice item of type {type_name(pointee(target))}")
    start, end = _bounds(bounds, len(target))
    budget.take_room(ROOM_OF_ELEMENT * (end - start))
    return target.part(start, end) if isinstance(target, Array) else list(target[start:end])


def _slice_text(text: str, bounds: tuple[object, ...]) -> str:
    if len(bounds) == _MOST_SLICE_INDEXES:
        raise FunctionError("cannot 3-index slice a string")
    raw = gostring.to_bytes(text)
    start, end = _bounds(bounds, len(raw))
    return gostring.from_bytes(raw[start:end])


def _bounds(bounds: tuple[object, ...], size: int) -> tuple[int, int]:
    given = [_whole(bound, size) for bound in bounds]
    for lower, upper in pairwise(given):
        if lower > upper:
            raise FunctionError(f"invalid slice index: {lower} > {upper}")
    start, end = (*given, *(0, size)[len(given) :])[:2]
    return start, end


def _element(target: object, key: object) -> object:
    if target is None:
        raise FunctionError("index of nil pointer")
    if isinstance(target, str):
        raw = gostring.to_bytes(target)
        return Byte(raw[_inside(key, len(raw), "string")])
    if isinstance(target, list | tuple):
        return target[_inside(key, len(target), "slice")]
    if not isinstance(target, Mapping):
        raise FunctionError(f"can't index item of type {type_name(pointee(target))}")
    if key is None:
        raise FunctionError("value is nil; should be of type string")
    if not isinstance(key, str):
        raise FunctionError(f"value has type {type_name(key)}; should be string")
    return get_item(target, key)


def _inside(key: object, size: int, kind: str) -> int:
    position = _whole(key, size)
    if position == size:
        raise FunctionError(f"reflect: {kind} index out of range")
    return position


def _whole(key: object, largest: int) -> int:
    if key is None:
        raise FunctionError("cannot index slice/array with nil")
    if not isinstance(key, int) or isinstance(key, bool):
        raise FunctionError(f"cannot index slice/array with type {type_name(key)}")
    if not 0 <= key <= largest:
        raise FunctionError(f"index out of range: {key}")
    return key
