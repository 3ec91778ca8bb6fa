"""`printf` and `print`: format strings and the spaces between operands (wire-spec 12.2)."""

from collections.abc import Sequence
from dataclasses import replace

from mlx_ollama.gotemplate.values import pointee, type_name, unbox
from mlx_ollama.gotemplate.verbs import PLAIN, Flags, format_value

_LARGEST_WIDTH = 1_000_000


def printed(value: object) -> str:
    """What `{{ value }}` writes."""
    return "<no value>" if value is None else format_value(pointee(value))


def sprint(operands: Sequence[object]) -> str:
    """Operands side by side, with a space between two of which neither is a string."""
    text = ""
    for index, operand in enumerate(map(unbox, operands)):
        is_spaced = index and not isinstance(operand, str) and not isinstance(unbox(operands[index - 1]), str)
        text += (" " if is_spaced else "") + format_value(operand)
    return text


def sprintln(operands: Sequence[object]) -> str:
    """Operands with a space between any two, and a newline."""
    return " ".join(map(format_value, operands)) + "\n"


def sprintf(template: str, operands: Sequence[object]) -> str:
    """`template` with its verbs replaced, and Go's remarks on those that do not fit."""
    return _Format(template, operands).run()


class _Format:
    def __init__(self, template: str, operands: Sequence[object]) -> None:
        self._template = template
        self._operands = operands
        self._position = 0
        self._used = 0
        self._is_reordered = False
        self._is_index_good = True
        self._has_index = False

    def run(self) -> str:
        parts: list[str] = []
        while (percent := self._template.find("%", self._position)) >= 0:
            parts.append(self._template[self._position : percent])
            self._position = percent + 1
            parts.append(self._directive())
        parts += [self._template[self._position :], self._extra()]
        return "".join(parts)

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
        flags = PLAIN
        while character := self._peek():
            match character:
                case "#":
                    flags = replace(flags, sharp=True)
                case "0":
                    flags = replace(flags, zero=True)
                case "+":
                    flags = replace(flags, plus=True)
                case "-":
                    flags = replace(flags, minus=True)
                case " ":
                    flags = replace(flags, space=True)
                case _:
                    break
            self._position += 1
        return flags

    def _number(self) -> int | None:
        start = self._position
        number = 0
        while self._peek().isascii() and self._peek().isdigit():
            if number > _LARGEST_WIDTH:
                self._position = start
                return None
            number = number * 10 + int(self._peek())
            self._position += 1
        return number if self._position > start else None

    def _index(self) -> None:
        """`[2]`: the operand to use next."""
        if self._peek() != "[":
            return
        self._is_reordered = self._has_index = True
        end = self._template.find("]", self._position)
        if end < 0:
            self._position += 1
            self._is_index_good = False
            return
        digits = self._template[self._position + 1 : end]
        self._position = end + 1
        if digits.isascii() and digits.isdigit() and 1 <= int(digits) <= len(self._operands):
            self._used = int(digits) - 1
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

    def _extra(self) -> str:
        if self._is_reordered or self._used >= len(self._operands):
            return ""
        extra = map(_describe, map(unbox, self._operands[self._used :]))
        return f"%!(EXTRA {', '.join(extra)})"


def _describe(value: object) -> str:
    return "<nil>" if value is None else f"{type_name(value)}={format_value(value)}"
