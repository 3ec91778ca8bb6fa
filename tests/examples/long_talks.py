from starlette.types import ASGIApp, Receive, Scope, Send

from mlx_ollama.errors import InvalidRequest
from mlx_ollama.types import Chat


class LongTalks:
    """Refuses chats of more than `most` messages."""

    def __init__(self, app: ASGIApp, *, most: int) -> None:
        self.app = app
        self.most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = scope.get("state", {}).get("call")
        if isinstance(call, Chat) and len(call.messages) > self.most:
            raise InvalidRequest(f"a chat of {len(call.messages)} messages: {self.most} are the most here")
        await self.app(scope, receive, send)
