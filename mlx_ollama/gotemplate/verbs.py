"""One value in one verb of `printf` (wire-spec 12.2: printf, print, and every `{{ value }}`)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mlx_ollama.gotemplate import gostring
from mlx_ollama.gotemplate.budget import ROOM_OF_ELEMENT, Budget
from mlx_ollama.gotemplate.floats import format_float
from mlx_ollama.gotemplate.values import Byte, Struct, is_nil, own_text, sorted_items, type_name, unbox

_BASES = {"b": ("b", "0b"), "o": ("o", "0"), "O": ("o", "0o"), "x": ("x", "0x"), "X": ("X", "0X")}
_ALL_BITS = (1 << 64) - 1
_VERBS_OF_TEXT = "vsxXq"
_VERBS_OF_FLOATS = "vgGeEfFxXb"


@dataclass(frozen=True, slots=True)
class Flags:
    plus: bool = False
    minus: bool = False
    sharp: bool = False
    space: bool = False
    zero: bool = False
    names_fields: bool = False
    is_go_syntax: bool = False
    width: int = 0
    precision: int | None = None
    budget: Budget | None = None
    """What a stranger's widths and precisions are paid from, once for every element that is padded, and elements."""

    def take_room(self, characters: int) -> None:
        if self.budget is not None:
            self.budget.take_room(characters)


PLAIN = Flags()


def format_value(value: object, verb: str = "v", flags: Flags = PLAIN) -> str:
    """`value` as `printf` writes it, with Go's `%!d(string=x)` where the verb does not fit."""
    value = unbox(value)
    if verb == "T":
        return _pad(type_name(value), flags)
    if value is None:
        return _pad("<nil>", replace(flags, zero=False)) if verb == "v" else f"%!{verb}(<nil>)"
    if verb == "v":
        flags = replace(flags, plus=False, sharp=False, names_fields=flags.plus, is_go_syntax=flags.sharp)
    return _format(value, verb, flags)


def _format(value: object, verb: str, flags: Flags) -> str:
    value = unbox(value)
    if value is None:
        return "interface {}(nil)" if flags.is_go_syntax else "<nil>"
    if flags.is_go_syntax and is_nil(value):
        return f"{type_name(value)}(nil)"
    if verb in _VERBS_OF_TEXT and not flags.is_go_syntax and (text := own_text(value)) is not None:
        flags.take_room(len(text))
        value = text
    formatted = _format_kind(value, verb, flags)
    return _misfit(value, verb, flags) if formatted is None else formatted


def _format_kind(value: object, verb: str, flags: Flags) -> str | None:
    match value:
        case bool():
            return _pad("true" if value else "false", flags) if verb in "vt" else None
        case int():
            return _format_integer(value, verb, flags)
        case float():
            return _format_fraction(value, verb, flags)
        case str():
            return _format_text(value, verb, flags)
        case list() | tuple():
            return _format_list(value, verb, flags)
        case Mapping():
            return _format_map(value, verb, flags)
        case Struct():
            return _format_struct(value, verb, flags)
        case bytes():
            return _format_list(tuple(value), verb, flags)
    return str(value)


def _misfit(value: object, verb: str, flags: Flags) -> str:
    return f"%!{verb}({type_name(value)}={_format(value, 'v', flags)})"


def _format_list(value: list[object] | tuple[object, ...], verb: str, flags: Flags) -> str:
    flags.take_room(ROOM_OF_ELEMENT * len(value))
    parts = [_format(element, verb, flags) for element in value]
    if flags.is_go_syntax:
        return f"{type_name(value)}{{{', '.join(parts)}}}"
    return f"[{' '.join(parts)}]"


def _format_map(value: Mapping[str, object], verb: str, flags: Flags) -> str:
    flags.take_room(ROOM_OF_ELEMENT * len(value))
    parts = [f"{_format(key, verb, flags)}:{_format(element, verb, flags)}" for key, element in sorted_items(value)]
    if flags.is_go_syntax:
        return f"{type_name(value)}{{{', '.join(parts)}}}"
    return f"map[{' '.join(parts)}]"


def _format_struct(value: Struct, verb: str, flags: Flags) -> str:
    is_named = flags.names_fields or flags.is_go_syntax
    parts = [(f"{name}:" if is_named else "") + _format(field, verb, flags) for name, field in value.fields.items()]
    pointer = "&" if value.is_pointer else ""
    if flags.is_go_syntax:
        return f"{pointer}{value.name}{{{', '.join(parts)}}}"
    return f"{pointer}{{{' '.join(parts)}}}"


def _format_text(text: str, verb: str, flags: Flags) -> str | None:
    if flags.is_go_syntax:
        return _pad(gostring.quote(text), flags)
    if verb in ("x", "X"):
        return _pad(_hexadecimal(text, verb, flags), flags)
    if verb not in _VERBS_OF_TEXT:
        return None
    text = text if flags.precision is None else text[: flags.precision]
    return _pad(_quoted(text, flags) if verb == "q" else text, flags)


def _quoted(text: str, flags: Flags) -> str:
    if flags.sharp and "`" not in text and all(character == "\t" or character.isprintable() for character in text):
        return f"`{text}`"
    return gostring.quote(text, ascii_only=flags.plus)


def _hexadecimal(text: str, verb: str, flags: Flags) -> str:
    # A character is one byte at least: what lies behind those is not looked at.
    raw = gostring.to_bytes(text[: flags.precision])[: flags.precision]
    prefix = f"0{verb}" if flags.sharp and raw else ""
    digits = raw.hex(" ") if flags.space else raw.hex()
    return prefix + (digits.upper() if verb == "X" else digits).replace(" ", f" {prefix}")


def _format_integer(value: int, verb: str, flags: Flags) -> str | None:
    flags.take_room(flags.precision or 0)
    if verb == "c":
        return _pad(gostring.character_of(value), flags)
    if verb == "q":
        return _pad(gostring.quote_character(value, ascii_only=flags.plus), flags)
    if verb == "U":
        return _pad(_code_point(value, flags), replace(flags, zero=False))
    if isinstance(value, Byte) and flags.is_go_syntax:
        return _pad(f"0x{value:x}", flags)
    if verb in ("v", "d"):
        return _whole(value, format(abs(value), "d"), "", flags)
    if verb in _BASES:
        base, prefix = _BASES[verb]
        return _whole(value, format(abs(value), base), prefix if flags.sharp or verb == "O" else "", flags)
    return None


def _whole(value: int, digits: str, prefix: str, flags: Flags) -> str:
    if value == 0 and flags.precision == 0:
        return _pad("", replace(flags, zero=False))
    sign = _sign(value < 0, flags)
    if flags.precision is not None:
        digits = digits.rjust(flags.precision, "0")
    elif flags.zero and not flags.minus:
        digits = digits.rjust(flags.width - len(sign), "0")
    if prefix == "0" and digits.startswith("0"):
        prefix = ""
    return _pad(sign + prefix + digits, replace(flags, zero=False))


def _code_point(value: int, flags: Flags) -> str:
    digits = f"{value & _ALL_BITS:X}".rjust(max(flags.precision or 0, 4), "0")
    character = gostring.character_of(value)
    return f"U+{digits} '{character}'" if flags.sharp and character.isprintable() else f"U+{digits}"


def _format_fraction(value: float, verb: str, flags: Flags) -> str | None:
    if verb not in _VERBS_OF_FLOATS:
        return None
    flags.take_room(flags.precision or 0)
    text = format_float(abs(value), "g" if verb == "v" else verb, flags.precision, keeps_zeros=flags.sharp)
    sign = _sign(str(value).startswith("-"), flags)
    is_finite = text[0].isdigit()
    if not is_finite and text == "Inf" and not sign:
        sign = "+"
    if flags.zero and not flags.minus and is_finite:
        text = text.rjust(flags.width - len(sign), "0")
    return _pad(sign + text, replace(flags, zero=False))


def _sign(is_negative: bool, flags: Flags) -> str:
    if is_negative:
        return "-"
    if flags.plus:
        return "+"
    return " " if flags.space else ""


def _pad(text: str, flags: Flags) -> str:
    flags.take_room(flags.width)
    if flags.minus:
        return text.ljust(flags.width)
    return text.rjust(flags.width, "0" if flags.zero else " ")
