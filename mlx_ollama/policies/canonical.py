"""Takes out of a system prompt what changes with every request and means nothing to a model."""

import re
from dataclasses import replace

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_ollama import types
from mlx_ollama.types import Chat

HEADER = "x-mlx-ollama-canonical"

VOLATILE = {
    # Claude Code puts it first, with a checksum of the request in it: no prompt would begin like the one before.
    "x-anthropic-billing-header": re.compile(r"\Ax-anthropic-billing-header:(?:[ \t]*[\w-]+=[^;\n]*;)+\s*"),
}
"""What is known to change, by the name under which it is reported."""


class Canonical:
    """A prompt that begins like an earlier one need not be read again; this lets it begin so.

    What was taken out is named in a header, `X-Mlx-Ollama-Canonical: removed …`. `enabled` False leaves prompts alone.
    """

    def __init__(self, app: ASGIApp, *, enabled: bool) -> None:
        self.app = app
        self._enabled = enabled

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = scope.get("state", {}).get("call")
        names: list[str] = []
        if self._enabled and isinstance(call, Chat):
            scope["state"]["call"], names = canonical(call)
        if not names:
            await self.app(scope, receive, send)
            return

        async def send_with_names(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = f"removed {', '.join(names)}"
            await send(message)

        await self.app(scope, receive, send_with_names)


def canonical(call: Chat) -> tuple[Chat, list[str]]:
    """The call without what is volatile, and the names of what that was."""
    found = {name for message in call.messages for name in _volatile(message)}
    if not found:
        return call, []
    return replace(call, messages=[_without(message) for message in call.messages]), sorted(found)


def _volatile(message: types.Message) -> list[str]:
    if message.role != "system":
        return []
    return [name for name, pattern in VOLATILE.items() if pattern.match(message.content)]


def _without(message: types.Message) -> types.Message:
    for name in _volatile(message):
        message = replace(message, content=VOLATILE[name].sub("", message.content))
    return message
