"""Messages as templates see them (wire-spec 12.2)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from mlx_ollama.gotemplate.values import Array, Struct, Table


class ToolCall(Protocol):
    """A function that an assistant message calls."""

    @property
    def id(self) -> str: ...
    @property
    def index(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def arguments(self) -> Mapping[str, object]: ...


class Message(Protocol):
    """One turn of a conversation; `mlx_ollama.types.Message` is one."""

    @property
    def role(self) -> str: ...
    @property
    def content(self) -> str: ...
    @property
    def thinking(self) -> str: ...
    @property
    def images(self) -> Sequence[bytes]: ...
    @property
    def tool_calls(self) -> Sequence[ToolCall]: ...
    @property
    def tool_name(self) -> str: ...
    @property
    def tool_call_id(self) -> str: ...


def joined_system(messages: Iterable[Message]) -> str:
    """What all system messages say (wire-spec 4.3)."""
    return "\n\n".join(message.content for message in messages if message.role == "system")


def merged(messages: Iterable[Message]) -> list[tuple[Message, str]]:
    """Each message with its content; neighbours of one role become one, except the results of tools (wire-spec 4.3)."""
    turns: list[tuple[Message, list[str]]] = []
    for message in messages:
        if turns and turns[-1][0].role == message.role != "tool":
            turns[-1][1].append(message.content)
        else:
            turns.append((message, [message.content]))
    # Joined at the end: a text that grows with every message is copied as often.
    return [(first, "\n\n".join(contents)) for first, contents in turns]


def as_go_messages(turns: Iterable[tuple[Message, str]]) -> Array:
    """The value of `.Messages`."""
    return Array((_message(message, content) for message, content in turns), "[]*template.templateMessage")


def as_go_json(value: object) -> object:
    """Decoded JSON as Go decodes it: every number is a float64."""
    if isinstance(value, Mapping):
        return {key: as_go_json(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [as_go_json(member) for member in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _message(message: Message, content: str) -> Struct:
    fields = {
        "Role": message.role,
        "Content": content,
        "Thinking": message.thinking,
        "Images": Array(message.images, "[]api.ImageData"),
        "ToolCalls": Array(map(_tool_call, message.tool_calls), "[]template.templateToolCall"),
        "ToolName": message.tool_name,
        "ToolCallID": message.tool_call_id,
    }
    return Struct("template.templateMessage", fields, is_pointer=True)


def _tool_call(call: ToolCall) -> Struct:
    function = {"Index": call.index, "Name": call.name, "Arguments": _arguments(call.arguments)}
    return Struct(
        "template.templateToolCall",
        {"ID": call.id, "Function": Struct("template.templateToolCallFunction", function)},
    )


def _arguments(arguments: Mapping[str, object]) -> Table:
    return Table({key: as_go_json(value) for key, value in arguments.items()}, "template.templateArgs")
