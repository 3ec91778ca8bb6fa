"""Ollama's own dialect: `/api/*` (wire-spec sections 2 to 5)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mlx_ollama import gojson, gotime
from mlx_ollama.dialects.answers import PLAIN_JSON, REFUSAL_JSON, Refusal, Stage
from mlx_ollama.dialects.gotypes import (
    Members,
    Struct,
    anything,
    array_of,
    boolean,
    image,
    integer,
    integers,
    keep_alive,
    mapping,
    object_of,
    string,
    think,
)
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.types import (
    Chat,
    Completion,
    Details,
    ListedModel,
    LoadedModel,
    Message,
    Show,
    ShownModel,
    ToolCall,
)


def _arguments(value: Any, where: str) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    raise InvalidRequest("Value looks like object, but can't find closing '}' symbol")


def _lowered(value: Any, where: str) -> str:
    return string(value, where).lower()


_FUNCTION = Struct("ToolCallFunction", {"index": integer, "name": string, "arguments": _arguments})
_TOOL_CALL = Struct("ToolCall", {"id": string, "function": object_of(_FUNCTION, "api.ToolCallFunction")})
MESSAGE = Struct(
    "Message",
    {
        "role": _lowered,
        "content": string,
        "thinking": string,
        "images": array_of(image, "[]api.ImageData", zero=""),
        "tool_calls": array_of(object_of(_TOOL_CALL, "api.ToolCall"), "[]api.ToolCall", zero={}),
        "tool_name": string,
        "tool_call_id": string,
    },
)
_GENERATION = {
    "model": string,
    "stream": boolean,
    "format": anything,
    "keep_alive": keep_alive,
    "options": mapping,
    "think": think,
    "truncate": boolean,
    "shift": boolean,
    "logprobs": boolean,
    "top_logprobs": integer,
    "_debug_render_only": boolean,
}
_GENERATE = Struct(
    "GenerateRequest",
    {
        **_GENERATION,
        "prompt": string,
        "suffix": string,
        "system": string,
        "template": string,
        "context": integers,
        "raw": boolean,
        "images": array_of(image, "[]api.ImageData", zero=""),
    },
)
_CHAT = Struct(
    "ChatRequest",
    {
        **_GENERATION,
        "messages": array_of(object_of(MESSAGE, "api.Message"), "[]api.Message", zero={}),
        "tools": array_of(mapping, "api.Tools", zero={}),
    },
)
_SHOW = Struct(
    "ShowRequest",
    {
        "model": string,
        "name": string,
        "verbose": boolean,
        "system": string,
        "template": string,
        "options": mapping,
    },
)


def decode_generate(body: bytes, headers: Mapping[str, str]) -> Completion:
    """`POST /api/generate` (wire-spec 3.1)."""
    return Completion(**_call_members(_GENERATE.read(body)))


def decode_chat(body: bytes, headers: Mapping[str, str]) -> Chat:
    """`POST /api/chat` (wire-spec 4.1)."""
    members = _call_members(_CHAT.read(body))
    members["messages"] = tuple(message_of(message) for message in members.get("messages", ()))
    return Chat(**members)


def decode_show(body: bytes, headers: Mapping[str, str]) -> Show:
    """`POST /api/show` (wire-spec 5.5); `name` counts where `model` is empty."""
    members = _SHOW.read(body)
    return Show(
        model=members.get("model") or members.get("name", ""),
        verbose=members.get("verbose", False),
        system=members.get("system", ""),
        options=members.get("options", {}),
        ignored=members.ignored,
        user_agent=headers.get("user-agent", ""),
    )


def refuse(status: int, message: str, stage: Stage) -> Refusal:
    """An error body; one in the place of a stream has its own content type (wire-spec 0.2)."""
    content_type = PLAIN_JSON if stage == "answering" else REFUSAL_JSON
    return Refusal(gojson.dumps({"error": message}), {"content-type": content_type})


def encode_tags(models: Sequence[ListedModel]) -> bytes:
    """`GET /api/tags` (wire-spec 5.3)."""
    return gojson.dumps({"models": [_listed(model) for model in models]})


def encode_ps(models: Sequence[LoadedModel]) -> bytes:
    """`GET /api/ps` (wire-spec 5.4)."""
    return gojson.dumps({"models": [_loaded(model) for model in models]})


def encode_show(shown: ShownModel) -> bytes:
    """`POST /api/show` (wire-spec 5.5)."""
    members: dict[str, Any] = {
        "license": shown.license,
        "modelfile": shown.modelfile,
        "parameters": shown.parameters,
        "template": shown.template,
        "system": shown.system,
        "details": _details(shown.details, sizes=False),
        "messages": [{"role": message.role, "content": message.content} for message in shown.messages],
        "model_info": shown.model_info,
        "tensors": list(shown.tensors),
        "capabilities": list(shown.capabilities),
        "modified_at": gotime.local(shown.modified),
        "requires": shown.requires,
    }
    always = ("details", "model_info", "modified_at")
    return gojson.dumps({key: value for key, value in members.items() if value or key in always})


def _call_members(members: Members) -> dict[str, Any]:
    """Fields of a request as the arguments of a call."""
    if "_debug_render_only" in members:
        members["render_only"] = members.pop("_debug_render_only")
    return {"model": "", **members, "ignored": members.ignored}


def message_of(members: Mapping[str, Any]) -> Message:
    """A turn of a conversation from its decoded members."""
    calls = tuple(_tool_call(call) for call in members.get("tool_calls", ()))
    rest = {key: value for key, value in members.items() if key not in ("role", "content", "tool_calls")}
    return Message(members.get("role", ""), members.get("content", ""), tool_calls=calls, **rest)


def _tool_call(members: Mapping[str, Any]) -> ToolCall:
    function = members.get("function", {})
    return ToolCall(
        function.get("name", ""), function.get("arguments", {}), members.get("id", ""), function.get("index", 0)
    )


def _listed(model: ListedModel) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": model.name,
        "model": model.name,
        **({"remote_model": model.remote_model, "remote_host": model.remote_host} if model.remote_host else {}),
        "modified_at": gotime.local(model.modified),
        "size": model.size,
        "digest": model.digest,
        "details": _details(model.details, sizes=True),
    }
    return entry | ({"capabilities": list(model.capabilities)} if model.capabilities else {})


def _loaded(model: LoadedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "model": model.name,
        "size": model.size,
        "digest": model.digest,
        "details": _details(model.details, sizes=False),
        "expires_at": gotime.local(model.expires),
        "size_vram": model.size_vram,
        "context_length": model.context_length,
    }


def _details(details: Details, *, sizes: bool) -> dict[str, Any]:
    members = asdict(details)
    ordered = {
        key: members[key]
        for key in ("parent_model", "format", "family", "families", "parameter_size", "quantization_level")
    }
    ordered["families"] = list(details.families) or None
    found = {key: members[key] for key in ("context_length", "embedding_length") if sizes and members[key]}
    return ordered | found
