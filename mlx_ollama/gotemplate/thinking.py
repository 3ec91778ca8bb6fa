"""The tags around a model's thinking, inferred from its template (wire-spec 10.1)."""

from mlx_ollama.gotemplate.nodes import Block, Branch, Field, Pipe, Statement, Text
from mlx_ollama.gotemplate.template import Template
from mlx_ollama.gotemplate.walk import blocks_in, operands_in, pipes_in


def thinking_tags(template: Template) -> tuple[str, str] | None:
    """The text before and behind `.Thinking` where the messages are ranged over; None without both."""
    search = _Search()
    search.block(template.root, in_messages=False)
    return (search.opening, search.closing) if search.opening and search.closing else None


class _Search:
    """The last `.Thinking` that stands in a block beginning (ending) with text decides."""

    def __init__(self) -> None:
        self.opening = ""
        self.closing = ""

    def block(self, block: Block, *, in_messages: bool) -> None:
        for statement in block:
            is_inside = _ranges_over_messages(statement, in_messages=in_messages)
            if is_inside and any(_mentions(pipe, "Thinking") for pipe in pipes_in(statement)):
                self._take_edges(block)
            for inner in blocks_in(statement):
                self.block(inner, in_messages=is_inside)

    def _take_edges(self, block: Block) -> None:
        first, last = block[0], block[-1]
        if isinstance(first, Text):
            self.opening = first.text.strip()
        if isinstance(last, Text):
            self.closing = last.text.strip()


def _ranges_over_messages(statement: Statement, *, in_messages: bool) -> bool:
    if isinstance(statement, Branch) and statement.keyword == "range":
        return _mentions(statement.pipe, "Messages")
    return in_messages


def _mentions(pipe: Pipe, name: str) -> bool:
    return any(isinstance(operand, Field) and operand.names[0] == name for operand in operands_in(pipe))
