"""Pipelines to values (wire-spec 12.2)."""

from collections.abc import Mapping, Sequence

from mlx_ollama.gotemplate import gostring
from mlx_ollama.gotemplate.budget import Budget
from mlx_ollama.gotemplate.errors import FunctionError, TemplateError
from mlx_ollama.gotemplate.functions import SPECIAL, Function, Parameter
from mlx_ollama.gotemplate.nodes import (
    Call,
    Chain,
    Command,
    Constant,
    Dot,
    Field,
    Identifier,
    Nil,
    Operand,
    Pipe,
    Variable,
)
from mlx_ollama.gotemplate.values import FieldError, Struct, get_field, is_true, type_name, unbox

_LARGEST_INT = (1 << 63) - 1

_OPERANDS_OF_STEP = 4
"""So many come with a step; a command may have a hundred thousand."""


class _Absent:
    """No value comes down the pipeline."""


_ABSENT = _Absent()


class Evaluator:
    """The variables of one template under execution, and the place in it that a complaint would name."""

    def __init__(self, source: str, name: str, functions: Mapping[str, Function], budget: Budget, data: object) -> None:
        self._source = source
        self._name = name
        self._functions = functions
        self._budget = budget
        self._declared = ["$"]
        self._values: dict[str, list[object]] = {"$": [data]}
        """What each name stands for, the innermost last."""
        self._place: Operand | Command | Call = Dot(0)

    def error(self, complaint: str) -> TemplateError:
        """The complaint with the place that is being evaluated."""
        before = self._source[: self._place.position]
        line, column = before.count("\n") + 1, gostring.size(before[before.rfind("\n") + 1 :])
        name = gostring.quote(self._name)
        return TemplateError(f"template: :{line}:{column}: executing {name} at <{self._place}>: {complaint}")

    def at(self, place: Operand | Command | Call) -> None:
        """Complaints from now on are about `place`."""
        self._place = place

    def mark(self) -> int:
        return len(self._declared)

    def forget_since(self, mark: int) -> None:
        for name in self._declared[mark:]:
            self._values[name].pop()
        del self._declared[mark:]

    def assign(self, name: str, value: object) -> None:
        """Give a value to the innermost variable of this name."""
        self._known(name)[-1] = value

    def _declare(self, name: str, value: object) -> None:
        self._declared.append(name)
        self._values.setdefault(name, []).append(value)

    def pipe(self, dot: object, pipe: Pipe) -> object:
        """The value of a pipeline, which its variables are given too."""
        self.at(pipe)
        value: object = _ABSENT
        for command in pipe.commands:
            value = unbox(self._command(dot, command, value))
        for name in pipe.declared:
            if pipe.assigns:
                self.assign(name, value)
            else:
                self._declare(name, value)
        return value

    def _command(self, dot: object, command: Command, final: object) -> object:
        self._budget.take_step(1 + len(command.arguments) // _OPERANDS_OF_STEP)
        first, has_arguments = command.arguments[0], len(command.arguments) > 1 or final is not _ABSENT
        match first:
            case Identifier():
                return self._function(dot, first, command, final)
            case Field() | Variable() | Chain():
                return self._chain(dot, first, has_arguments=has_arguments)
            case Pipe():
                self._refuse_arguments(first, has_arguments)
                return self.pipe(dot, first)
        self.at(first)
        self._refuse_arguments(first, has_arguments)
        if isinstance(first, Nil):
            raise self.error("nil is not a command")
        return self._operand(dot, first)

    def _refuse_arguments(self, operand: Operand, has_arguments: bool) -> None:
        if has_arguments:
            raise self.error(f"can't give argument to non-function {operand}")

    def _operand(self, dot: object, operand: Operand) -> object:
        match operand:
            case Dot():
                return dot
            case Nil():
                return None
            case Constant():
                return self._constant(operand)
            case Identifier():
                return self._function(dot, operand, Command(operand.position, (operand,)), _ABSENT)
            case Pipe():
                return self.pipe(dot, operand)
        return self._chain(dot, operand, has_arguments=False)

    def _constant(self, constant: Constant) -> object:
        if isinstance(constant.value, int) and constant.value > _LARGEST_INT:
            raise self.error(f"{constant} overflows int")
        return constant.value

    def _chain(self, dot: object, operand: Field | Variable | Chain, *, has_arguments: bool) -> object:
        self.at(operand)
        value = self._root(dot, operand)
        self._budget.take_step(len(operand.names) // _OPERANDS_OF_STEP)
        if not operand.names:
            self._refuse_arguments(operand, has_arguments)
        for name in operand.names[:-1]:
            value = self._field(value, name, has_arguments=False)
        for name in operand.names[-1:]:
            value = self._field(value, name, has_arguments=has_arguments)
        return value

    def _root(self, dot: object, operand: Field | Variable | Chain) -> object:
        match operand:
            case Field():
                return dot
            case Variable():
                return self._variable(operand.name)
        return self._operand(dot, operand.root)

    def _variable(self, name: str) -> object:
        return self._known(name)[-1]

    def _known(self, name: str) -> list[object]:
        values = self._values.get(name)
        if not values:
            raise self.error(f"undefined variable: {name}")
        return values

    def _field(self, receiver: object, name: str, *, has_arguments: bool) -> object:
        target = unbox(receiver)
        if has_arguments and isinstance(target, Mapping):
            raise self.error(f"{name} is not a method but has arguments")
        if has_arguments and isinstance(target, Struct) and name in target.fields:
            raise self.error(f"{name} has arguments but cannot be invoked as function")
        try:
            return get_field(receiver, name)
        except FieldError as error:
            raise self.error(str(error)) from error

    def _function(self, dot: object, identifier: Identifier, command: Command, final: object) -> object:
        self.at(identifier)
        name, arguments = identifier.name, command.arguments[1:]
        if name in SPECIAL:
            self._check_count(name, len(arguments) + (final is not _ABSENT), 1, takes_more=True)
            if name == "call":
                raise self._uncallable(dot, command, final)
            return self._first_decisive(dot, arguments, final, decisive=name == "or")
        function = self._functions[name]
        values = self._arguments(dot, name, function, arguments, final)
        for value in map(unbox, values):
            if isinstance(value, str):
                # A comparison of long texts makes none, and takes its time all the same.
                self._budget.take_text(value)
        try:
            result = function.call(self._budget, *values) if function.is_given_budget else function.call(*values)
        except FunctionError as error:
            self.at(command)
            raise self.error(f"error calling {name}: {error}") from error
        if isinstance(result, str) and not function.is_given_budget:
            self._budget.take_text(result)
        return result

    def _first_decisive(self, dot: object, arguments: Sequence[Operand], final: object, *, decisive: bool) -> object:
        """What `and` (decided by the first false value) or `or` (by the first true one) gives."""
        value: object = None
        for argument in arguments:
            value = self._argument(dot, argument, "any")
            if is_true(value) == decisive:
                return value
        return value if final is _ABSENT else final

    def _uncallable(self, dot: object, command: Command, final: object) -> TemplateError:
        """Data holds no functions, so `call` has nothing to call."""
        arguments = command.arguments[1:]
        values = [unbox(self._argument(dot, argument, "any")) for argument in arguments]
        values += [] if final is _ABSENT else [final]
        self.at(command)
        if values[0] is None:
            return self.error("error calling call: call of nil")
        name = arguments[0] if arguments else _as_reflected(values[0])
        return self.error(f"error calling call: non-function {name} of type {type_name(values[0])}")

    def _arguments(
        self, dot: object, name: str, function: Function, arguments: Sequence[Operand], final: object
    ) -> list[object]:
        count = len(arguments) + (final is not _ABSENT)
        self._check_count(name, count, len(function.parameters), takes_more=function.rest is not None)
        types = function.parameters + (function.rest or "any",) * (count - len(function.parameters))
        values = [self._argument(dot, argument, kind) for argument, kind in zip(arguments, types, strict=False)]
        if final is not _ABSENT:
            values.append(self._fit(final, types[-1]))
        return values if function.is_given_boxes else [unbox(value) for value in values]

    def _check_count(self, name: str, count: int, wanted: int, *, takes_more: bool) -> None:
        if count < wanted or (count > wanted and not takes_more):
            at_least = "at least " if takes_more else ""
            raise self.error(f"wrong number of args for {name}: want {at_least}{wanted} got {count}")

    def _argument(self, dot: object, argument: Operand, kind: Parameter) -> object:
        self.at(argument)
        if kind == "string" and isinstance(argument, Constant) and not isinstance(argument.value, str):
            raise self.error(f"expected string; found {argument}")
        if kind == "string" and isinstance(argument, Nil):
            raise self.error("cannot assign nil to string")
        return self._fit(self._operand(dot, argument), kind)

    def _fit(self, value: object, kind: Parameter) -> object:
        if kind == "any" or isinstance(unbox(value), str):
            return value
        if value is None:
            raise self.error("invalid value; expected string")
        actual = value if unbox(value) is None else unbox(value)
        raise self.error(f"wrong type for value; expected string; got {type_name(actual)}")


def _as_reflected(value: object) -> str:
    return value if isinstance(value, str) else f"<{type_name(value)} Value>"
