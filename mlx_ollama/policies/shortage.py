"""Memory that runs out in the gateway itself is a refusal and an alarm, no end of the server."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from mlx_ollama.errors import MlxOllamaError, OutOfMemory
from mlx_ollama.memory.shortage import is_shortage


class Shortage:
    """Turns what a request finds no memory for into our error, and calls `alarm` with the cause.

    What workers report is an error of ours already, and the pool has heard of it.

    Raises:
        OutOfMemory: for a MemoryError, or a RuntimeError that names an allocation.
    """

    def __init__(self, app: ASGIApp, *, alarm: Callable[[str], None]) -> None:
        self.app = app
        self._alarm = alarm

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except MlxOllamaError:
            raise
        except Exception as error:
            if not is_shortage(error):
                raise
            cause = f"{type(error).__name__} in the gateway"
            self._alarm(cause)
            raise OutOfMemory(f"memory ran out under this request: {cause}") from error
