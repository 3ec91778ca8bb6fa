"""Tells callers which of their fields and options have no effect here."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_ollama.errors import InvalidRequest
from mlx_ollama.options import without_effect
from mlx_ollama.types import Call, Embed, Generation

HEADER = "x-mlx-ollama-ignored"
MOST_NAMES = 20
LONGEST_NAME = 64


class IgnoredOptions:
    """Adds `X-Mlx-Ollama-Ignored: name, …` to answers; with `strict` the request is refused instead.

    Raises:
        InvalidRequest: with `strict`, for a field or an option without effect.
    """

    def __init__(self, app: ASGIApp, *, strict: bool) -> None:
        self.app = app
        self._strict = strict

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = scope.get("state", {}).get("call")
        names = _names(call) if isinstance(call, Call) else []
        if not names:
            await self.app(scope, receive, send)
            return
        if self._strict:
            listed = ", ".join(f'"{name}"' for name in names)
            raise InvalidRequest(f"without effect on this server (MLX_API_STRICT): {listed}")

        async def send_with_names(message: Message) -> None:
            if message["type"] == "http.response.start":
                # A header has no room for characters beyond ASCII, nor for line ends.
                MutableHeaders(scope=message)[HEADER] = ", ".join(ascii(name)[1:-1] for name in names)
            await send(message)

        await self.app(scope, receive, send_with_names)


def _names(call: Call) -> list[str]:
    """Fields, then options; names are the caller's, who may write many, and long ones."""
    options = without_effect(call.options) if isinstance(call, Generation | Embed) else []
    return [name[:LONGEST_NAME] for name in [*call.ignored, *options][:MOST_NAMES]]
