"""The functions a template may call: Go's own and those of the reference server (wire-spec 12.2)."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

from mlx_ollama.gotemplate.budget import Budget
from mlx_ollama.gotemplate.comparison import equals, equals_one, is_at_most, is_less
from mlx_ollama.gotemplate.escapes import escape_html, escape_javascript, escape_query
from mlx_ollama.gotemplate.gostring import in_pieces
from mlx_ollama.gotemplate.indexing import index, length, slice_
from mlx_ollama.gotemplate.printf import sprint, sprintf, sprintln
from mlx_ollama.gotemplate.typescript import typescript_type
from mlx_ollama.gotemplate.values import is_true, pointee, to_json

Today = Callable[[], date]
Parameter = Literal["any", "string"]


@dataclass(frozen=True, slots=True)
class Function:
    """A function, the types of its parameters, and that of further ones where it takes any number."""

    call: Callable[..., object]
    parameters: tuple[Parameter, ...] = ()
    rest: Parameter | None = None
    is_given_boxes: bool = False
    """Whether it tells what a field holds from the same value out of a variable."""
    is_given_budget: bool = False
    """Whether the budget comes before its arguments: it can make more than it was given, and counts while it does."""


def functions(today: Today) -> dict[str, Function]:
    """Every function by name, with `today` as the clock of the two that print a date."""
    return FUNCTIONS | {
        "currentDate": Function(lambda *_: today().isoformat(), rest="string"),
        "yesterdayDate": Function(lambda *_: (today() - timedelta(days=1)).isoformat(), rest="string"),
    }


def _print(budget: Budget, *operands: object) -> str:
    return sprint(operands, budget)


def _println(budget: Budget, *operands: object) -> str:
    return sprintln(operands, budget)


def _printf(budget: Budget, template: str, *operands: object) -> str:
    return sprintf(template, operands, budget)


def _escaping(escape: Callable[[str], str]) -> Function:
    def call(budget: Budget, *operands: object) -> str:
        text = sprint([_printable(operand) for operand in operands], budget)
        return "".join(budget.take_text(escape(piece)) for piece in in_pieces(text))

    return Function(call, (), "any", is_given_budget=True)


def _printable(operand: object) -> object:
    return "<no value>" if operand is None else pointee(operand)


def _ordered(compare: Callable[[object, object], bool]) -> Function:
    return Function(compare, ("any", "any"))


FUNCTIONS: dict[str, Function] = {
    "not": Function(lambda value: not is_true(value), ("any",)),
    "eq": Function(equals_one, ("any",), "any"),
    "ne": _ordered(lambda first, second: not equals(first, second)),
    "lt": _ordered(is_less),
    "le": _ordered(is_at_most),
    "gt": _ordered(lambda first, second: not is_at_most(first, second)),
    "ge": _ordered(lambda first, second: not is_less(first, second)),
    "len": Function(length, ("any",), is_given_boxes=True),
    "index": Function(index, ("any",), "any", is_given_budget=True),
    "slice": Function(slice_, ("any",), "any", is_given_boxes=True, is_given_budget=True),
    "print": Function(_print, (), "any", is_given_budget=True),
    "printf": Function(_printf, ("string",), "any", is_given_budget=True),
    "println": Function(_println, (), "any", is_given_budget=True),
    "html": _escaping(escape_html),
    "js": _escaping(escape_javascript),
    "urlquery": _escaping(escape_query),
    "json": Function(to_json, ("any",)),
    "toTypeScriptType": Function(typescript_type, ("any",)),
}

# These the interpreter itself knows: they do not evaluate all arguments, or need the source of one.
SPECIAL = frozenset(("and", "or", "call"))

NAMES = frozenset(FUNCTIONS) | SPECIAL | {"currentDate", "yesterdayDate"}
