"""Messages of `/v1/messages`: blocks of content to turns of a conversation (wire-spec 8.8)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_ollama.dialects.gotypes import image
from mlx_ollama.dialects.v1types import role_of
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.types import Message, ToolCall


def text_of(content: Any) -> str:
    """The text of a string or of text blocks, joined; anything else has none."""
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "".join(_text(block, "text") for block in blocks if _kind(block) == "text")


def conversation(messages: Sequence[Mapping[str, Any]]) -> Iterator[Message]:
    """The turns; what tools gave stands before what the user says about it, each in a turn of its own.

    Raises:
        InvalidRequest: in the reference's words.
    """
    names: dict[str, str] = {}
    for message in messages:
        turn = _Turn(names)
        content = message.get("content")
        for block in content if isinstance(content, list) else [{"type": "text", "text": text_of(content)}]:
            turn.add(block)
        yield from turn.messages(role_of(message.get("role", "")))


@dataclass
class _Turn:
    """One message while its blocks are read; `names` are those of all calls so far, by id."""

    names: dict[str, str]
    _texts: list[str] = field(default_factory=list)
    _thinking: list[str] = field(default_factory=list)
    _images: list[bytes] = field(default_factory=list)
    _calls: list[ToolCall] = field(default_factory=list)
    _results: list[Message] = field(default_factory=list)

    def add(self, block: Any) -> None:
        """Take a block in; of a kind that nobody knows it is passed over."""
        readers: Mapping[str, Callable[[Any], None]] = {
            "text": lambda block: self._texts.append(_text(block, "text")),
            "thinking": lambda block: self._thinking.append(_text(block, "thinking")),
            "image": lambda block: self._images.append(_image(block)),
            "tool_use": self._call,
            "server_tool_use": self._call,
            "tool_result": lambda block: self._result(block, text_of(block.get("content")), _images(block)),
            "web_search_tool_result": lambda block: self._result(block, _found(block.get("content")), ()),
        }
        if read := readers.get(_kind(block)):
            read(block)

    def messages(self, role: str) -> Iterator[Message]:
        yield from self._results
        own = "".join(self._texts)
        if own or self._images or self._calls or self._thinking or not self._results:
            yield Message(role, own, "".join(self._thinking), tuple(self._images), tuple(self._calls))

    def _call(self, block: Mapping[str, Any]) -> None:
        id_, name, arguments = _text(block, "id"), _text(block, "name"), block.get("input")
        for member, value in (("id", id_), ("name", name)):
            if not value:
                raise InvalidRequest(f"{_kind(block)} block missing required '{member}' field")
        self.names[id_] = name
        given = arguments if isinstance(arguments, Mapping) else {}
        self._calls.append(ToolCall(name, given, id_, len(self._calls)))

    def _result(self, block: Mapping[str, Any], text: str, images: tuple[bytes, ...]) -> None:
        id_ = _text(block, "tool_use_id")
        name = self.names.get(id_, "")
        self._results.append(Message("tool", text, images=images, tool_name=name, tool_call_id=id_))


def _kind(block: Any) -> str:
    return _text(block, "type")


def _text(block: Any, name: str) -> str:
    value = block.get(name) if isinstance(block, Mapping) else None
    return value if isinstance(value, str) else ""


def _images(block: Mapping[str, Any]) -> tuple[bytes, ...]:
    """The images among a tool's results."""
    content = block.get("content")
    return tuple(_image(part) for part in content if _kind(part) == "image") if isinstance(content, list) else ()


def _image(block: Mapping[str, Any]) -> bytes:
    source = block.get("source")
    if not isinstance(source, Mapping):
        raise InvalidRequest("invalid image source")
    if _kind(source) != "base64":
        raise InvalidRequest(f"invalid image source type: {_kind(source)}. Only base64 images are supported.")
    return image(_text(source, "data"), "")


def _found(content: Any) -> str:
    """What a search on the web found or why it failed, as a model can read it."""
    if not isinstance(content, list):
        return _text(content, "error_code")
    return "\n".join(f"- {_text(entry, 'title')}: {_text(entry, 'url')}" for entry in content)
