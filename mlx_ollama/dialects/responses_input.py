"""The `input` of `/v1/responses`: text, or items of a conversation (wire-spec 8.6)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from mlx_ollama import gojson
from mlx_ollama.dialects.gotypes import Struct, anything, string
from mlx_ollama.dialects.v1types import arguments_of_text, image_of_url, role_of
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.types import Message, ToolCall

_ITEMS = {
    "message": Struct("ResponsesInputMessage", {"role": string, "content": anything}),
    "function_call": Struct(
        "ResponsesFunctionCall", {"call_id": string, "name": string, "namespace": string, "arguments": string}
    ),
    "function_call_output": Struct("ResponsesFunctionCallOutput", {"call_id": string, "output": anything}),
    "reasoning": Struct("ResponsesReasoningInput", {"encrypted_content": string, "summary": anything}),
    "web_search_call": Struct("ResponsesWebSearchCall", {}),
}
_HEAD = Struct("", {"type": string, "role": string})
"""What tells of which kind an item is; the reference reads it into a struct without a name."""

_TEXT_PARTS = ("input_text", "output_text")
_PARTS = (*_TEXT_PARTS, "input_image", "input_file")


def read_input(value: Any, where: str) -> tuple[Message, ...]:
    """The conversation that `input` tells.

    Every item is looked at before the first is translated, as the reference does, so a wrong one is named whatever
    stands before it.

    Raises:
        InvalidRequest: with the place of the item.
    """
    if isinstance(value, str):
        return (Message("user", value),) if value else ()
    if not isinstance(value, list):
        raise InvalidRequest(
            f"input must be a string or array: json: cannot unmarshal {gojson.kind(value)} "
            "into Go value of type []json.RawMessage"
        )
    items = [_placed(f"input[{at}]", partial(_read_item, item)) for at, item in enumerate(value)]
    conversation = _Conversation()
    for kind, members in items:
        conversation.add(kind, members)
    return conversation.told()


def joined_name(namespace: str, name: str) -> str:
    """The name under which a model sees a member of a namespace."""
    return f"{namespace}.{name}" if namespace else name


def _placed(place: str, read: Callable[[], Any]) -> Any:
    """What `read` gives, its complaint with the place in front."""
    try:
        return read()
    except InvalidRequest as error:
        raise InvalidRequest(f"{place}: {error}") from error


def _read_item(item: Any) -> tuple[str, dict[str, Any]]:
    members = item if isinstance(item, Mapping) else {}
    head = _HEAD.members(members, _HEAD.name)
    kind = head.get("type") or ("message" if head.get("role") else "")
    if not kind:
        raise InvalidRequest("input item missing required 'type' field")
    if kind not in _ITEMS:
        raise InvalidRequest(f"unknown input item type: {gojson.dumps(kind).decode()}")
    read = _ITEMS[kind].members(members, _ITEMS[kind].name)
    for name in ("content", "output"):
        if isinstance(read.get(name), list):
            _check_parts(read[name])
    return kind, read


def _check_parts(parts: Sequence[Any]) -> None:
    for at, part in enumerate(parts):
        kind = part.get("type", "") if isinstance(part, Mapping) else ""
        if kind not in _PARTS:
            raise InvalidRequest(f"content[{at}]: unknown content type: {kind}")


@dataclass
class _Conversation:
    """Items become messages: reasoning belongs to the assistant's message after it, calls to the one before them.

    Calls and reasoning are joined once, when what follows is known: a body may have tens of thousands of either.
    """

    _messages: list[Message] = field(default_factory=list)
    _calls: list[ToolCall] = field(default_factory=list)
    _thoughts: list[str] = field(default_factory=list)
    _names: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, members: Mapping[str, Any]) -> None:
        match kind:
            case "message":
                self._message(members)
            case "function_call":
                self._call(members)
            case "function_call_output":
                text, images = _content(members.get("output"))
                id_ = members.get("call_id", "")
                name = self._names.get(id_, "")
                self._append(Message("tool", text, images=images, tool_name=name, tool_call_id=id_))
            case "reasoning":
                if thought := members.get("encrypted_content") or _summary(members.get("summary")):
                    self._thoughts.append(thought)

    def told(self) -> tuple[Message, ...]:
        """All that was added."""
        self._settle()
        return tuple(self._messages)

    def _message(self, members: Mapping[str, Any]) -> None:
        role = role_of(members.get("role", ""))
        text, images = _content(members.get("content"))
        message = Message(role, text, images=images)
        if role == "assistant":
            message = replace(message, thinking=self._thinking())
        self._append(message)

    def _call(self, members: Mapping[str, Any]) -> None:
        name = joined_name(members.get("namespace", ""), members.get("name", ""))
        call = ToolCall(name, arguments_of_text(members.get("arguments", "")), members.get("call_id", ""))
        self._names[call.id] = name
        is_of_the_last = self._messages and self._messages[-1].role == "assistant" and not self._thoughts
        if not is_of_the_last:
            self._append(Message("assistant", "", self._thinking()))
        self._calls.append(replace(call, index=len(self._calls)))

    def _append(self, message: Message) -> None:
        self._settle()
        self._messages.append(message)

    def _settle(self) -> None:
        """Give the last message the calls that came after it."""
        if self._calls:
            self._messages[-1] = replace(self._messages[-1], tool_calls=tuple(self._calls))
            self._calls = []

    def _thinking(self) -> str:
        """The reasoning that waits for its message, which has it from then on."""
        thinking = "".join(self._thoughts)
        self._thoughts = []
        return thinking


def _content(content: Any) -> tuple[str, tuple[bytes, ...]]:
    """Text and images of a message or a result; a result may be any JSON."""
    if not isinstance(content, list):
        is_text = isinstance(content, str)
        return (content if is_text else gojson.dumps(content).decode() if content is not None else ""), ()
    if any(part["type"] == "input_file" for part in content):
        raise InvalidRequest("file inputs are not currently supported")
    texts = [_member(part, "text") for part in content if part["type"] in _TEXT_PARTS]
    urls = [_member(part, "image_url") for part in content if part["type"] == "input_image"]
    return "".join(texts), tuple(map(image_of_url, urls))


def _summary(summary: Any) -> str:
    return "".join(_member(part, "text") for part in summary) if isinstance(summary, list) else ""


def _member(part: Any, name: str) -> str:
    value = part.get(name) if isinstance(part, Mapping) else None
    return value if isinstance(value, str) else ""
