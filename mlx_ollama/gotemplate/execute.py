"""A syntax tree and data to text (wire-spec 12.2)."""

from collections.abc import Iterable, Mapping

from mlx_ollama.gotemplate.budget import ROOM_OF_ELEMENT, Budget
from mlx_ollama.gotemplate.evaluate import Evaluator
from mlx_ollama.gotemplate.functions import Function
from mlx_ollama.gotemplate.gostring import clean, quote
from mlx_ollama.gotemplate.nodes import Action, Block, Branch, Call, Jump, Statement, Text
from mlx_ollama.gotemplate.printf import printed
from mlx_ollama.gotemplate.values import elements, is_true, pointee, sorted_items
from mlx_ollama.gotemplate.verbs import format_value

MAX_DEPTH = 120
"""Blocks and templates inside one another while they run; each costs several of Python's 1,000 frames."""


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


def execute(
    source: str,
    templates: Mapping[str, Block],
    functions: Mapping[str, Function],
    data: object,
    budget: Budget,
) -> str:
    """The text that the template with the empty name makes of `data`, within what is left of `budget`.

    Raises:
        TemplateError: with Go's message, `template: :LINE:COLUMN: executing "" at <…>: …`.
    """
    execution = _Execution(source, templates, functions, budget)
    execution.run("", data)
    return clean("".join(execution.output))


class _Execution:
    def __init__(
        self, source: str, templates: Mapping[str, Block], functions: Mapping[str, Function], budget: Budget
    ) -> None:
        self.output: list[str] = []
        self._source = source
        self._templates = templates
        self._functions = functions
        self._budget = budget
        self._depth = 0

    def run(self, name: str, data: object) -> None:
        evaluator = Evaluator(self._source, name, self._functions, self._budget, data)
        self._block(evaluator, data, self._templates[name])

    def _block(self, evaluator: Evaluator, dot: object, block: Block) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise evaluator.error(f"exceeded maximum template depth ({MAX_DEPTH})")
        try:
            for statement in block:
                self._statement(evaluator, dot, statement)
        finally:
            self._depth -= 1

    def _statement(self, evaluator: Evaluator, dot: object, statement: Statement) -> None:
        self._budget.take_step()
        match statement:
            case Text():
                self._write(statement.text)
            case Action():
                value = evaluator.pipe(dot, statement.pipe)
                if not statement.pipe.declared:
                    self._write(printed(value, self._budget))
            case Branch():
                self._branch(evaluator, dot, statement)
            case Call():
                self._call(evaluator, dot, statement)
            case Jump():
                raise _Break if statement.keyword == "break" else _Continue

    def _write(self, text: str) -> None:
        self.output.append(self._budget.take_text(text))

    def _call(self, evaluator: Evaluator, dot: object, call: Call) -> None:
        evaluator.at(call)
        if call.name not in self._templates:
            raise evaluator.error(f"template {quote(call.name)} not defined")
        if self._depth >= MAX_DEPTH:
            raise evaluator.error(f"exceeded maximum template depth ({MAX_DEPTH})")
        self.run(call.name, evaluator.pipe(dot, call.pipe) if call.pipe else None)

    def _branch(self, evaluator: Evaluator, dot: object, branch: Branch) -> None:
        mark = evaluator.mark()
        value = evaluator.pipe(dot, branch.pipe)
        if branch.keyword == "range":
            is_empty = not self._repeat(evaluator, value, branch)
        else:
            is_empty = not is_true(value)
            if not is_empty:
                self._block(evaluator, value if branch.keyword == "with" else dot, branch.body)
        if is_empty and branch.otherwise is not None:
            self._block(evaluator, dot, branch.otherwise)
        evaluator.forget_since(mark)

    def _repeat(self, evaluator: Evaluator, value: object, branch: Branch) -> bool:
        """Run the body for each element; whether there was one."""
        has_any = False
        mark = evaluator.mark()
        for key, element in self._iterate(evaluator, value, branch):
            has_any = True
            self._budget.take_step()
            for name, part in zip(branch.pipe.declared, _loop_values(branch, key, element), strict=True):
                evaluator.assign(name, part)
            try:
                self._block(evaluator, element, branch.body)
            except _Break:
                break
            except _Continue:
                continue
            finally:
                evaluator.forget_since(mark)
        return has_any

    def _iterate(self, evaluator: Evaluator, value: object, branch: Branch) -> Iterable[tuple[object, object]]:
        match value:
            case None:
                return ()
            case list() | tuple():
                return enumerate(elements(value))
            case Mapping():
                # They are sorted whichever of them the body looks at.
                self._budget.take_room(ROOM_OF_ELEMENT * len(value))
                return sorted_items(value)
            case int() if not isinstance(value, bool):
                if len(branch.pipe.declared) > 1:
                    raise evaluator.error(f"can't use {value} to iterate over more than one variable")
                return zip(range(value), range(value), strict=True)
        raise evaluator.error(f"range can't iterate over {format_value(pointee(value))}")


def _loop_values(branch: Branch, key: object, element: object) -> tuple[object, ...]:
    return ((), (element,), (key, element))[len(branch.pipe.declared)]
