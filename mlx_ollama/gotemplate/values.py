"""Go values in Python, and the questions a template asks of them.

Most are plain: `None`, `bool`, `int` (int), `float` (float64), `str`, `list` ([]interface {}), `dict`
(map[string]interface {}). The classes below are for what Python has no plain type for.
"""

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping

from mlx_ollama import gojson
from mlx_ollama.gotemplate import gostring
from mlx_ollama.gotemplate.errors import TemplateError


class FieldError(Exception):
    """A field cannot be had; the message is Go's."""


class Boxed:
    """What a map or list of interface{} holds: its static type hides the dynamic one in some complaints."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


class Byte(int):
    """A uint8, which indexing a string gives."""


class Array(list[object]):
    """A slice of a named type, or whose elements have a type; `text` and `json` are its methods, if any."""

    def __init__(
        self,
        items: Iterable[object],
        type_name: str,
        *,
        text: Callable[[list[object]], str] | None = None,
        json: Callable[[list[object]], object] | None = None,
    ) -> None:
        super().__init__(items)
        self.type_name = type_name
        self.text = text
        self.json = json
        self.is_nil = not self

    def part(self, start: int, end: int) -> "Array":
        part = Array(self[start:end], self.type_name, text=self.text, json=self.json)
        part.is_nil = self.is_nil
        return part


class Table(dict[str, object]):
    """A map of a named type; `zero` makes what a missing key gives."""

    def __init__(
        self,
        items: Mapping[str, object],
        type_name: str,
        *,
        zero: Callable[[], object] | None = None,
        is_nil: bool = False,
    ) -> None:
        super().__init__(items)
        self.type_name = type_name
        self.zero = zero
        self.is_nil = is_nil


class Struct:
    """A struct, or with `is_pointer` a pointer to one; `json` is its JSON form, if it has one with other names."""

    def __init__(
        self,
        name: str,
        fields: Mapping[str, object],
        *,
        is_pointer: bool = False,
        json: object = None,
        prints_json: bool = False,
    ) -> None:
        self.name = name
        self.fields = fields
        self.is_pointer = is_pointer
        self.json = json
        self.prints_json = prints_json

    @property
    def type_name(self) -> str:
        return f"*{self.name}" if self.is_pointer else self.name

    def pointee(self) -> "Struct":
        return Struct(self.name, self.fields, json=self.json, prints_json=self.prints_json)


def unbox(value: object) -> object:
    return value.value if isinstance(value, Boxed) else value


def type_name(value: object) -> str:
    """The name Go gives to the type of `value` (the verb %T)."""
    if isinstance(value, Boxed):
        return "interface {}"
    if isinstance(value, Array | Table | Struct):
        return value.type_name
    for kind, name in _PLAIN_TYPES:
        if isinstance(value, kind):
            return name
    return "<nil>" if value is None else type(value).__name__


_PLAIN_TYPES: tuple[tuple[type, str], ...] = (
    (bool, "bool"),
    (Byte, "uint8"),
    (int, "int"),
    (float, "float64"),
    (str, "string"),
    (list, "[]interface {}"),
    (tuple, "[]interface {}"),
    (bytes, "api.ImageData"),
    (Mapping, "map[string]interface {}"),
)


def is_true(value: object) -> bool:
    """Go's truth: not the zero value, not empty."""
    value = unbox(value)
    return isinstance(value, Struct) or bool(value)


def own_text(value: object) -> str | None:
    """What the String method of a value gives, if it has one."""
    match value:
        case Array() if value.text:
            return value.text(value)
        case Table():
            return "{}" if value.is_nil else to_json(value)
        case Struct() if value.prints_json:
            return to_json(value)
    return None


def pointee(value: object) -> object:
    """What a pointer points to, which `{{ value }}` prints; anything else as it is."""
    return value.pointee() if isinstance(value, Struct) and value.is_pointer else value


def is_nil(value: object) -> bool:
    """Whether a slice or map was never made."""
    return isinstance(value, Array | Table) and value.is_nil


def get_field(receiver: object, name: str) -> object:
    """`receiver.name`.

    Raises:
        FieldError: the receiver has no such field.
    """
    target = unbox(receiver)
    if target is None:
        if isinstance(receiver, Boxed):
            raise FieldError(f"nil pointer evaluating interface {{}}.{name}")
        return None
    if isinstance(target, Mapping):
        return get_item(target, name)
    if isinstance(target, Struct) and name in target.fields:
        return target.fields[name]
    raise FieldError(f"can't evaluate field {name} in type {type_name(receiver)}")


def get_item(table: Mapping[str, object], key: str) -> object:
    """`table[key]`, or the zero value of its elements (wire-spec 12.2: missingkey=zero)."""
    if isinstance(table, Table) and table.zero is not None:
        return table[key] if key in table else table.zero()
    return Boxed(table.get(key))


def elements(values: list[object] | tuple[object, ...]) -> Iterable[object]:
    """The elements as a `range` sees them."""
    return values if isinstance(values, Array) else map(Boxed, values)


def sorted_items(table: Mapping[str, object]) -> list[tuple[str, object]]:
    """Keys and elements in Go's order of iteration."""
    return [(key, get_item(table, key)) for key in sorted(table)]


def to_json(value: object) -> str:
    """`value` as Go's `json.Marshal` writes it: maps sorted by key, structs in their own order.

    Raises:
        TemplateError: the value is nested too deeply.
    """
    try:
        return gojson.dumps(_jsonable(value)).decode()
    except TypeError as error:
        raise TemplateError(f"template: : {error}") from error


def _jsonable(value: object) -> object:
    value = unbox(value)
    match value:
        case str():
            return gostring.clean(value)
        case Struct():
            return _jsonable(Ordered(value.fields) if value.json is None else value.json)
        case Array() if value.json:
            return value.json(value)
        case Ordered():
            return {key: _jsonable(member) for key, member in value.items()}
        case Mapping():
            return None if is_nil(value) else {gostring.clean(key): _jsonable(value[key]) for key in sorted(value)}
        case list() | tuple():
            return None if is_nil(value) else [_jsonable(member) for member in value]
        case bytes():
            return b64encode(value).decode()
        case Byte():
            return int(value)
    return value


class Ordered(dict[str, object]):
    """The JSON form of a struct: its keys stay in the order given."""
