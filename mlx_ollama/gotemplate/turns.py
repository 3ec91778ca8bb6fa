"""The older way to make a prompt: the template runs once per turn (wire-spec 12.2, "legacy mode")."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date

from mlx_ollama.gotemplate.budget import Budget
from mlx_ollama.gotemplate.messages import Message
from mlx_ollama.gotemplate.nodes import Action, Block, Branch, Command, Field, Operand, Pipe, Statement
from mlx_ollama.gotemplate.template import Template

_RESPONSE = "Response"
_PRINT_RESPONSE = Action(Pipe(0, (), False, (Command(0, (Field(0, (_RESPONSE,)),)),)))


@dataclass(frozen=True, slots=True)
class _Turn:
    system: str = ""
    prompt: str = ""
    response: str = ""


def render_turns(
    template: Template,
    messages: Iterable[tuple[Message, str]],
    data: Mapping[str, object],
    *,
    today: Callable[[], date],
) -> str:
    """One rendering per turn; the last one ends where the model's answer goes on."""
    if "response" not in template.variables:
        template = template.with_root((*template.root, _PRINT_RESPONSE))
    *earlier, last = _turns(messages)
    budget = Budget()
    parts = [template.render({**data, **_data(turn)}, today=today, budget=budget) for turn in earlier]
    ending = _until_response(template).render({**data, **_data(last)}, today=today, budget=budget)
    return "".join([*parts, ending])


def _data(turn: _Turn) -> dict[str, str]:
    return {"System": turn.system, "Prompt": turn.prompt, _RESPONSE: turn.response}


def _turns(messages: Iterable[tuple[Message, str]]) -> list[_Turn]:
    """A new turn begins at a system message behind anything else, or at a user message behind a response."""
    turns = [_Turn()]
    for message, content in messages:
        pending = turns[-1]
        match message.role:
            case "system":
                is_answered = pending.prompt or pending.response
                turns[-1:] = [pending, _Turn(content)] if is_answered else [replace(pending, system=content)]
            case "user":
                turns[-1:] = (
                    [pending, _Turn(prompt=content)] if pending.response else [replace(pending, prompt=content)]
                )
            case "assistant":
                turns[-1] = replace(pending, response=content)
    return turns


def _until_response(template: Template) -> Template:
    block, _ = _cut_block(template.root)
    return template.with_root(block)


def _cut_block(block: Block) -> tuple[Block, bool]:
    """What comes before the first `.Response`, that included; and whether there is one."""
    kept: list[Statement] = []
    for statement in block:
        part, is_cut = _cut_statement(statement)
        kept.append(part)
        if is_cut:
            return tuple(kept), True
    return tuple(kept), False


def _cut_statement(statement: Statement) -> tuple[Statement, bool]:
    if isinstance(statement, Action):
        pipe, is_cut = _cut_pipe(statement.pipe)
        return Action(pipe), is_cut
    if not isinstance(statement, Branch):
        return statement, False
    body, is_cut = _cut_block(statement.body)
    if is_cut or statement.otherwise is None:
        return replace(statement, body=body, otherwise=None if is_cut else statement.otherwise), is_cut
    otherwise, is_cut = _cut_block(statement.otherwise)
    return replace(statement, otherwise=otherwise), is_cut


def _cut_pipe(pipe: Pipe) -> tuple[Pipe, bool]:
    commands: list[Command] = []
    for command in pipe.commands:
        part, is_cut = _cut_command(command)
        commands.append(part)
        if is_cut:
            return replace(pipe, commands=tuple(commands)), True
    return pipe, False


def _cut_command(command: Command) -> tuple[Command, bool]:
    arguments: list[Operand] = []
    for argument in command.arguments:
        part, is_cut = _cut_pipe(argument) if isinstance(argument, Pipe) else (argument, _is_response(argument))
        arguments.append(part)
        if is_cut:
            return replace(command, arguments=tuple(arguments)), True
    return command, False


def _is_response(operand: Operand) -> bool:
    return isinstance(operand, Field) and _RESPONSE in operand.names
