"""What stands inside a policy on trial: applications that answer, wait or fail."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from mlx_ollama.testing.client import App, Receive, Scope, Send

ANSWER = (b'{"response":"a"}\n', b'{"response":"b"}\n', b'{"done":true}\n')
HEADERS = [(b"content-type", b"application/x-ndjson"), (b"x-answer", b"inside")]

_UNREAD_SECONDS = 0.2


class Inside:
    """Behaves as it is told, and remembers what it was given. `busy` counts the requests that are with it."""

    def __init__(self, behave: App) -> None:
        self.behave = behave
        self.scopes: list[Scope] = []
        self.busy = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        self.busy += 1
        try:
            await self.behave(scope, receive, send)
        finally:
            self.busy -= 1


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """A stream of a few pieces."""
    await send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
    for piece in ANSWER:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def answer_for_ever(scope: Scope, receive: Receive, send: Send) -> None:
    """A stream that only its reader can end."""
    await send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
    while True:
        await send({"type": "http.response.body", "body": ANSWER[0], "more_body": True})
        await asyncio.sleep(0)


async def wait(scope: Scope, receive: Receive, send: Send) -> None:
    """Never come to an end."""
    await asyncio.Event().wait()


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """What is no request is not answered."""


def failing(make: Callable[[], Exception], *, begins: bool = False) -> App:
    """Raise an error, perhaps after the answer has begun."""

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        if begins:
            await send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
            await send({"type": "http.response.body", "body": ANSWER[0], "more_body": True})
        raise make()

    return fail


def answer_when(gate: asyncio.Event) -> App:
    """Answer once the gate is open, and read the body as an endpoint does, if it is there to be read."""

    async def read_and_answer(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await read(receive)
        await answer(scope, receive, send)

    return read_and_answer


async def read(receive: Receive) -> bytes:
    """The body, as far as it is there."""
    pieces = []
    with suppress(TimeoutError):
        more = True
        while more:
            async with asyncio.timeout(_UNREAD_SECONDS):
                message = await receive()
            pieces.append(message.get("body", b""))
            more = message.get("more_body", False)
    return b"".join(pieces)
