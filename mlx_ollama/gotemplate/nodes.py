"""The syntax tree of a template.

`str` of a node is its source in Go's normal form: execution errors quote it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlx_ollama.gotemplate.gostring import quote

BranchKeyword = Literal["if", "with", "range"]


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Action:
    pipe: Pipe


@dataclass(frozen=True, slots=True)
class Branch:
    """`if`, `with` or `range`."""

    keyword: BranchKeyword
    pipe: Pipe
    body: Block
    otherwise: Block | None


@dataclass(frozen=True, slots=True)
class Call:
    """`{{template "name" pipe}}`."""

    position: int
    name: str
    pipe: Pipe | None

    def __str__(self) -> str:
        return f"{{{{template {quote(self.name)}{f' {self.pipe}' if self.pipe else ''}}}}}"


@dataclass(frozen=True, slots=True)
class Jump:
    keyword: Literal["break", "continue"]


Statement = Text | Action | Branch | Call | Jump
Block = tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Pipe:
    position: int
    declared: tuple[str, ...]
    assigns: bool
    commands: tuple[Command, ...]

    def __str__(self) -> str:
        chain = " | ".join(str(command) for command in self.commands)
        if not self.declared:
            return chain
        return f"{', '.join(self.declared)} {'=' if self.assigns else ':='} {chain}"


@dataclass(frozen=True, slots=True)
class Command:
    position: int
    arguments: tuple[Operand, ...]

    def __str__(self) -> str:
        return " ".join(f"({argument})" if isinstance(argument, Pipe) else str(argument) for argument in self.arguments)


@dataclass(frozen=True, slots=True)
class Dot:
    position: int

    def __str__(self) -> str:
        return "."


@dataclass(frozen=True, slots=True)
class Nil:
    position: int

    def __str__(self) -> str:
        return "nil"


@dataclass(frozen=True, slots=True)
class Constant:
    """A boolean, a number or a string, with the text it was written as."""

    position: int
    text: str
    value: bool | int | float | str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Identifier:
    position: int
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Field:
    """`.A.B`, looked up from dot."""

    position: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        return "".join(f".{name}" for name in self.names)


@dataclass(frozen=True, slots=True)
class Variable:
    """`$x.A.B`; the first name is the variable's."""

    position: int
    name: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ".".join((self.name, *self.names))


@dataclass(frozen=True, slots=True)
class Chain:
    """`(pipeline).A.B` or `function.A.B`."""

    position: int
    root: Pipe | Identifier
    names: tuple[str, ...]

    def __str__(self) -> str:
        root = f"({self.root})" if isinstance(self.root, Pipe) else str(self.root)
        return ".".join((root, *self.names))


Operand = Dot | Nil | Constant | Identifier | Field | Variable | Chain | Pipe
