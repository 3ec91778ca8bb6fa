"""Pipelines inside `{{ }}`: declarations, commands, operands (wire-spec 12.2)."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager

from mlx_ollama.gotemplate.cursor import Cursor
from mlx_ollama.gotemplate.gostring import quote, unquote, unquote_character
from mlx_ollama.gotemplate.lexer import Kind, Token
from mlx_ollama.gotemplate.nodes import (
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
from mlx_ollama.gotemplate.number import parse_number

MAX_NESTING = 100
"""How deep blocks and parentheses may be: each level costs the interpreter several Python frames."""

_VARIABLES_OF_RANGE = 2
_STARTS_OF_OPERAND = frozenset(
    (
        Kind.BOOL,
        Kind.CHARACTER,
        Kind.DOT,
        Kind.FIELD,
        Kind.IDENTIFIER,
        Kind.LEFT_PAREN,
        Kind.NIL,
        Kind.NUMBER,
        Kind.STRING,
        Kind.VARIABLE,
    ),
)


class PipelineParser:
    def __init__(self, cursor: Cursor, known_functions: AbstractSet[str]) -> None:
        self._cursor = cursor
        self._known_functions = known_functions
        self._variables = ["$"]
        self._nesting = 0

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Variables declared inside are forgotten afterwards."""
        outer = len(self._variables)
        with self.nested():
            yield
        del self._variables[outer:]

    @contextmanager
    def fresh_scope(self) -> Iterator[None]:
        """Inside, only `$` is known, as in a template of its own."""
        outer, self._variables = self._variables, ["$"]
        with self.nested():
            yield
        self._variables = outer

    @contextmanager
    def nested(self) -> Iterator[None]:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise self._cursor.error("max expression depth exceeded")
        yield
        self._nesting -= 1

    def pipe(self, context: str, closing: Kind = Kind.CLOSING) -> Pipe:
        """A pipeline up to and with its closing delimiter; `context` names it in complaints."""
        position = self._cursor.peek_after_space().position
        declared, assigns = self._declarations(context)
        commands: list[Command] = []
        while (token := self._cursor.peek_after_space()).kind is not closing:
            if token.kind not in _STARTS_OF_OPERAND:
                raise self._cursor.unexpected(self._cursor.next(), context)
            commands.append(self._command())
        self._cursor.next()
        self._check(commands, context)
        return Pipe(position, declared, assigns, tuple(commands))

    def _check(self, commands: list[Command], context: str) -> None:
        if not commands:
            raise self._cursor.error(f"missing value for {context}")
        for stage, command in enumerate(commands[1:], 2):
            if isinstance(command.arguments[0], Constant | Dot | Nil):
                raise self._cursor.error(f"non executable command in pipeline stage {stage}")

    def _declarations(self, context: str) -> tuple[tuple[str, ...], bool]:
        names: list[str] = []
        while self._cursor.peek_after_space().kind is Kind.VARIABLE:
            start = self._cursor.mark()
            name = self._cursor.next().text
            following = self._cursor.peek_after_space()
            if following.kind in (Kind.DECLARE, Kind.ASSIGN):
                self._cursor.next()
                self._variables.append(name)
                return (*names, name), following.kind is Kind.ASSIGN
            if following.text != ",":
                self._cursor.return_to(start)
                break
            self._cursor.next()
            names.append(name)
            self._variables.append(name)
            self._expect_another_variable(context, names)
        return tuple(names), False

    def _expect_another_variable(self, context: str, names: list[str]) -> None:
        if context != "range" or len(names) >= _VARIABLES_OF_RANGE:
            raise self._cursor.error(f"too many declarations in {context}")
        if self._cursor.peek_after_space().kind not in (Kind.VARIABLE, Kind.CLOSING, Kind.RIGHT_PAREN):
            raise self._cursor.error("range can only initialize variables")

    def _command(self) -> Command:
        position = self._cursor.peek_after_space().position
        arguments: list[Operand] = []
        while (token := self._cursor.peek_after_space()).kind in _STARTS_OF_OPERAND:
            arguments.append(self._operand())
            token = self._cursor.peek()
            if token.kind is not Kind.SPACE:
                break
        self._end_command(token)
        return Command(position, tuple(arguments))

    def _end_command(self, token: Token) -> None:
        if token.kind is Kind.PIPE:
            self._cursor.next()
        elif token.kind not in (Kind.CLOSING, Kind.RIGHT_PAREN):
            raise self._cursor.unexpected(self._cursor.next(), "operand")

    def _operand(self) -> Operand:
        term = self._term(self._cursor.next())
        following = self._cursor.peek()
        names: list[str] = []
        while self._cursor.peek().kind is Kind.FIELD:
            names.append(self._cursor.next().text[1:])
        return self._chain(following.position, term, tuple(names)) if names else term

    def _chain(self, position: int, root: Operand, names: tuple[str, ...]) -> Operand:
        match root:
            case Field():
                return Field(position, root.names + names)
            case Variable():
                return Variable(position, root.name, names)
            case Pipe() | Identifier():
                return Chain(position, root, names)
            case _:
                raise self._cursor.error(f"unexpected . after term {quote(str(root))}")

    def _term(self, token: Token) -> Operand:
        text, position = token.text, token.position
        match token.kind:
            case Kind.DOT:
                return Dot(position)
            case Kind.NIL:
                return Nil(position)
            case Kind.FIELD:
                return Field(position, (text[1:],))
            case Kind.VARIABLE:
                return self._known_variable(token)
            case Kind.IDENTIFIER:
                return self._known_function(token)
            case Kind.LEFT_PAREN:
                with self.nested():
                    return self.pipe("parenthesized pipeline", Kind.RIGHT_PAREN)
            case _:
                return Constant(position, text, self._value(token))

    def _known_variable(self, token: Token) -> Variable:
        if token.text not in self._variables:
            raise self._cursor.error(f"undefined variable {quote(token.text)}")
        return Variable(token.position, token.text)

    def _known_function(self, token: Token) -> Identifier:
        if token.text not in self._known_functions:
            raise self._cursor.error(f"function {quote(token.text)} not defined")
        return Identifier(token.position, token.text)

    def _value(self, token: Token) -> bool | int | float | str:
        try:
            match token.kind:
                case Kind.BOOL:
                    return token.text == "true"
                case Kind.NUMBER:
                    return parse_number(token.text)
                case Kind.CHARACTER:
                    return unquote_character(token.text)
                case _:
                    return unquote(token.text)
        except ValueError as error:
            raise self._cursor.error(str(error)) from error
