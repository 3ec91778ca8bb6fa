"""Walks over a syntax tree."""

from collections.abc import Iterator

from mlx_ollama.gotemplate.nodes import Action, Block, Branch, Call, Chain, Field, Pipe, Statement, Variable


def names_in(block: Block) -> Iterator[str]:
    """The names of all fields and variables, each link of `.A.B` by itself."""
    for statement in block:
        for pipe in pipes_in(statement):
            for operand in operands_in(pipe):
                yield from (operand.name, *operand.names) if isinstance(operand, Variable) else operand.names
        for inner in blocks_in(statement):
            yield from names_in(inner)


def operands_in(pipe: Pipe) -> Iterator[Field | Variable | Chain]:
    """What a pipeline looks up, inside its parentheses too."""
    for command in pipe.commands:
        for argument in command.arguments:
            if isinstance(argument, Field | Variable | Chain):
                yield argument
            inner = argument.root if isinstance(argument, Chain) else argument
            if isinstance(inner, Pipe):
                yield from operands_in(inner)


def pipes_in(statement: Statement) -> Iterator[Pipe]:
    """The pipeline of a statement, not those of the blocks inside it."""
    if isinstance(statement, Action | Branch | Call) and statement.pipe is not None:
        yield statement.pipe


def blocks_in(statement: Statement) -> Iterator[Block]:
    """The blocks directly inside a statement."""
    if isinstance(statement, Branch):
        yield statement.body
        if statement.otherwise is not None:
            yield statement.otherwise
