"""`printf` and `print`: format strings and the spaces between operands (wire-spec 12.2)."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from mlx_ollama.gotemplate.budget import Budget
from mlx_ollama.gotemplate.values import pointee, type_name, unbox
from mlx_ollama.gotemplate.verbs import Flags, format_value

_LARGEST_WIDTH = 1_000_000
_STEPS_OF_VERB = 8
_MOST_DIGITS = len(str(_LARGEST_WIDTH)) + 1
_FLAGS = re.compile(r"[#0+\- ]*")
_DIGITS = re.compile(r"[0-9]*")


def printed(value: object, budget: Budget) -> str:
    """What `{{ value }}` writes."""
    return "<no value>" if value is None else format_value(pointee(value), flags=Flags(budget=budget))


def sprint(operands: Sequence[object], budget: Budget) -> str:
    """Operands side by side, with a space between two of which neither is a string."""
    return _joined(_spaced(operands, Flags(budget=budget)), budget)


def sprintln(operands: Sequence[object], budget: Budget) -> str:
    """Operands with a space between any two, and a newline."""
    flags = Flags(budget=budget)
    parts = (f"{' ' if index else ''}{format_value(each, flags=flags)}" for index, each in enumerate(operands))
    return _joined(parts, budget) + "\n"


def sprintf(template: str, operands: Sequence[object], budget: Budget) -> str:
    """`template` with its verbs replaced, and Go's remarks on those that do not fit."""
    return _joined(_Format(template, operands, budget).parts(), budget)


def _joined(parts: Iterable[str], budget: Budget) -> str:
    """One text; each part is counted before the next is made."""
    return "".join(map(budget.take_text, parts))


def _spaced(operands: Sequence[object], flags: Flags) -> Iterator[str]:
    is_behind_text = True
    for operand in map(unbox, operands):
        is_text = isinstance(operand, str)
        yield ("" if is_text or is_behind_text else " ") + format_value(operand, flags=flags)
        is_behind_text = is_text


class _Format:
    def __init__(self, template: str, operands: Sequence[object], budget: Budget) -> None:
        self._template = template
        self._operands = operands
        self._budget = budget
        self._last_bracket = template.rfind("]")
        self._position = 0
        self._used = 0
        self._is_reordered = False
        self._is_index_good = True
        self._has_index = False

    def parts(self) -> Iterator[str]:
        while (percent := self._template.find("%", self._position)) >= 0:
            yield self._template[self._position : percent]
            self._position = percent + 1
            self._budget.take_step(_STEPS_OF_VERB)
            yield self._directive()
        yield self._template[self._position :]
        yield from self._extra()

    def _directive(self) -> str:
        self._is_index_good, self._has_index = True, False
        flags = self._flags()
        self._index()
        flags, remark = self._width(flags)
        flags, second_remark = self._precision(flags)
        if not self._has_index:
            self._index()
        return remark + second_remark + self._verb(flags)

    def _peek(self) -> str:
        return self._template[self._position : self._position + 1]

    def _take(self, character: str) -> bool:
        is_there = self._peek() == character
        self._position += is_there
        return is_there

    def _flags(self) -> Flags:
        given = self._match(_FLAGS)
        return Flags(
            plus="+" in given,
            minus="-" in given,
            sharp="#" in given,
            space=" " in given,
            zero="0" in given,
            budget=self._budget,
        )

    def _match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._template, self._position)
        self._position = found.end() if found else self._position
        return found.group() if found else ""

    def _number(self) -> int | None:
        """None for no digits, and for too many: Go then gives up the rest of the format."""
        digits = self._match(_DIGITS)
        if not digits:
            return None
        number = _number_of(digits)
        if number is None:
            self._position = len(self._template)
        return number

    def _index(self) -> None:
        """`[2]`: the operand to use next."""
        if self._peek() != "[":
            return
        self._is_reordered = self._has_index = True
        if self._position > self._last_bracket:
            self._position += 1
            self._is_index_good = False
            return
        end = self._template.index("]", self._position)
        digits = self._template[self._position + 1 : end]
        self._position = end + 1
        number = _number_of(digits) if digits.isascii() and digits.isdigit() else None
        if number and number <= len(self._operands):
            self._used = number - 1
        else:
            self._is_index_good = False

    def _width(self, flags: Flags) -> tuple[Flags, str]:
        if self._take("*"):
            width = self._number_operand()
            self._has_index = False
            if width is None:
                return flags, "%!(BADWIDTH)"
            if width < 0:
                return replace(flags, width=-width, minus=True, zero=False), ""
            return replace(flags, width=width), ""
        width = self._number()
        if width is not None and self._has_index:
            self._is_index_good = False
        return replace(flags, width=width or 0), ""

    def _precision(self, flags: Flags) -> tuple[Flags, str]:
        is_last = self._position + 1 == len(self._template)
        if is_last or not self._take("."):
            return flags, ""
        if self._has_index:
            self._is_index_good = False
        self._has_index = False
        self._index()
        if not self._take("*"):
            return replace(flags, precision=self._number() or 0), ""
        precision = self._number_operand()
        self._has_index = False
        if precision is None:
            return flags, "%!(BADPREC)"
        return replace(flags, precision=precision if precision >= 0 else None), ("%!(BADPREC)" if precision < 0 else "")

    def _number_operand(self) -> int | None:
        if self._used >= len(self._operands):
            return None
        operand = unbox(self._operands[self._used])
        self._used += 1
        is_fit = isinstance(operand, int) and not isinstance(operand, bool) and abs(operand) <= _LARGEST_WIDTH
        return operand if is_fit and isinstance(operand, int) else None

    def _verb(self, flags: Flags) -> str:
        verb = self._peek()
        self._position += 1
        if not verb:
            return "%!(NOVERB)"
        if verb == "%":
            return "%"
        if not self._is_index_good:
            return f"%!{verb}(BADINDEX)"
        if self._used >= len(self._operands):
            return f"%!{verb}(MISSING)"
        operand = self._operands[self._used]
        self._used += 1
        return format_value(operand, verb, flags)

    def _extra(self) -> Iterator[str]:
        if self._is_reordered or self._used >= len(self._operands):
            return
        separator = "%!(EXTRA "
        for operand in map(unbox, self._operands[self._used :]):
            yield separator + _describe(operand, Flags(budget=self._budget))
            separator = ", "
        yield ")"


def _number_of(digits: str) -> int | None:
    """The number; None for one that Go calls too large, which it asks before the last digit."""
    digits = digits.lstrip("0")
    if len(digits) > _MOST_DIGITS or int(digits[:-1] or 0) > _LARGEST_WIDTH:
        return None
    return int(digits or 0)


def _describe(value: object, flags: Flags) -> str:
    return "<nil>" if value is None else f"{type_name(value)}={format_value(value, flags=flags)}"
