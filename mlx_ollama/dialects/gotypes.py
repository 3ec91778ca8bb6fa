"""Decoding JSON into typed fields with the words that Go's `encoding/json` finds for a mismatch (wire-spec 0.5)."""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_ollama import gojson
from mlx_ollama.durations import keep_alive_seconds, parse_duration
from mlx_ollama.errors import InvalidRequest

Read = Callable[[Any, str], Any]
"""A decoded JSON value, never null, and where it stands (`ChatRequest.messages.content`), to a value of ours."""

THINK_LEVELS = ("high", "medium", "low", "max")
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/]")


def anything(value: Any, where: str) -> Any:
    return value


_UNHEEDED = object()


class Members(dict[str, Any]):
    """The fields of an object that are set, each as its reader gave it.

    `ignored` names those that nobody reads, in the caller's order; one of an object inside is `thinking.budget_tokens`.
    """

    def __init__(self, found: Mapping[str, Any], ignored: tuple[str, ...] = ()) -> None:
        super().__init__(found)
        self.ignored = ignored


def unheeded(*usual: Any, read: Read = anything) -> Read:
    """A reader of a field that nobody here heeds; the `usual` values ask for no more than what happens anyway."""

    def read_unheeded(value: Any, where: str) -> Any:
        return found if (found := read(value, where)) in usual else _UNHEEDED

    return read_unheeded


_unknown = unheeded()


@dataclass(frozen=True)
class Struct:
    """A Go struct: its name in messages, and a reader per field by the field's JSON name in lower case.

    `package` is where Go has it, `empty` what is said of a body without a value.
    """

    name: str
    fields: Mapping[str, Read]
    package: str = "api"
    empty: str = "missing request body"

    def read(self, body: bytes) -> Members:
        """The fields of a request body that are set; `null` is an empty object, unknown fields are only named.

        Raises:
            InvalidRequest: with Go's or the reference's message.
        """
        try:
            value = gojson.loads(body)
        except gojson.GoSyntaxError as error:
            raise InvalidRequest(self.empty if str(error) == "EOF" else str(error)) from error
        if value is None:
            return Members({})
        if not isinstance(value, dict):
            go_type = f"{self.package}.{self.name}"
            raise InvalidRequest(f"json: cannot unmarshal {gojson.kind(value)} into Go value of type {go_type}")
        return self.members(value, self.name)

    def members(self, value: Mapping[str, Any], where: str) -> Members:
        """The fields of an object that is already decoded; names match in any case, the last of several wins."""
        read: dict[str, Any] = {}
        for key, member in value.items():
            name = key.lower()
            if member is not None:
                read[name] = self.fields.get(name, _unknown)(member, f"{where}.{name}")
        found = {name: member for name, member in read.items() if name in self.fields and member is not _UNHEEDED}
        return Members(found, tuple(_ignored(read)))


def _ignored(read: Mapping[str, Any]) -> Iterator[str]:
    for name, member in read.items():
        if member is _UNHEEDED:
            yield name
        elif isinstance(member, Members):
            yield from (f"{name}.{inner}" for inner in member.ignored)


def string(value: Any, where: str) -> str:
    return value if isinstance(value, str) else _mismatch(value, where, "string")


def boolean(value: Any, where: str) -> bool:
    return value if isinstance(value, bool) else _mismatch(value, where, "bool")


def integer(value: Any, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, gojson.Float):
        raise InvalidRequest(f"json: cannot unmarshal number {value.raw} into Go struct field {where} of type int")
    return int(_mismatch(value, where, "int"))


def number(go_type: str) -> Read:
    """A reader of numbers, with or without a fraction."""

    def read_number(value: Any, where: str) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        return float(_mismatch(value, where, go_type))

    return read_number


def integers(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list):
        _mismatch(value, where, "[]int")
    return tuple(0 if element is None else integer(element, where) for element in value)


def mapping(value: Any, where: str) -> dict[str, Any]:
    return value if isinstance(value, dict) else _mismatch(value, where, "map[string]interface {}")


def array_of(read: Read, go_type: str, *, zero: Any) -> Read:
    """A reader of arrays; `go_type` is the array's own type in messages, `zero` what a null element is read as."""

    def read_array(value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            _mismatch(value, where, go_type)
        return tuple(read(zero if element is None else element, where) for element in value)

    return read_array


def object_of(struct: Struct, go_type: str) -> Callable[[Any, str], Members]:
    """A reader of one object."""

    def read_object(value: Any, where: str) -> Members:
        if not isinstance(value, dict):
            _mismatch(value, where, go_type)
        return struct.members(value, where)

    return read_object


def image(value: Any, where: str) -> bytes:
    """Standard base64, nothing around it (wire-spec 3.2)."""
    text = string(value, where)
    bare = text.replace("\r", "").replace("\n", "")
    stripped = bare.rstrip("=")
    foreign = _NOT_BASE64.search(stripped)
    try:
        if foreign is None:
            return base64.b64decode(bare, validate=True)
    except binascii.Error:
        pass
    raise InvalidRequest(f"illegal base64 data at input byte {foreign.start() if foreign else len(stripped)}")


def keep_alive(value: Any, where: str) -> float:
    """Seconds, from a number of seconds or a duration; negative is for ever (wire-spec 3.4)."""
    if isinstance(value, bool):
        raise InvalidRequest("Unsupported type: 'bool'")
    if isinstance(value, int | float):
        return keep_alive_seconds(float(value))
    if isinstance(value, str):
        try:
            return keep_alive_seconds(parse_duration(value))
        except ValueError as error:
            raise InvalidRequest(str(error)) from error
    kind = "map[string]interface {}" if isinstance(value, dict) else "[]interface {}"
    raise InvalidRequest(f"Unsupported type: '{kind}'")


def think(value: Any, where: str) -> bool | str:
    """True, false or a level (wire-spec 3.2)."""
    allowed = ", ".join(f'"{level}"' for level in THINK_LEVELS)
    if isinstance(value, bool) or (isinstance(value, str) and value in THINK_LEVELS):
        return value
    if isinstance(value, str):
        raise InvalidRequest(f'invalid think value: "{value}" (must be {allowed}, true, or false)')
    raise InvalidRequest(f"think must be a boolean or string ({allowed}, true, or false)")


def _mismatch(value: Any, where: str, go_type: str) -> Any:
    raise InvalidRequest(f"json: cannot unmarshal {gojson.kind(value)} into Go struct field {where} of type {go_type}")
