"""Reads the body of a JSON request once; `scope["state"]` then has it as a typed `call`, and its bytes as `body`."""

import asyncio
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mlx_ollama.errors import TooLarge
from mlx_ollama.policies.body import Incoming
from mlx_ollama.policies.unpack import MOST_UNPACKED_BYTES, unpacked
from mlx_ollama.types import Call

Decoder = Callable[[bytes, Mapping[str, str]], Call]

LARGE_BODY_BYTES = 1 << 16
"""Decoding more than this takes long enough for others to notice: it is done in a thread."""


class Decode:
    """From here on every policy knows the model and the kind of work, and nobody parses JSON again.

    `decoders` are by method and path; other requests pass untouched. `max_body` is in bytes, `timeout` in
    seconds, as `Incoming` has it.

    Raises:
        InvalidRequest: in the words of the dialect, or for a body in an encoding that is not known.
        TooLarge: for a body over `max_body`.
        TooSlow: for a body that stops arriving, or trickles.
    """

    def __init__(
        self, app: ASGIApp, *, decoders: Mapping[tuple[str, str], Decoder], max_body: int, timeout: float
    ) -> None:
        self.app = app
        self._decoders = decoders
        self._max_body = max_body
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        decoder = self._decoders.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if decoder is None:
            await self.app(scope, receive, send)
            return
        body = await self._body(receive)
        if body is not None:
            headers, plain = Headers(scope=scope), body
            if encoding := headers.get("content-encoding"):
                plain = await asyncio.to_thread(unpacked, body, encoding, min(self._max_body, MOST_UNPACKED_BYTES))
            call = await _decoded(decoder, plain, headers)
            # The body as it came: with the headers it is what another server needs.
            scope.setdefault("state", {}).update(call=call, body=body)
            await self.app(scope, receive, send)

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body; None if the client left before its end.

        A body over the limit is read to its end all the same: a refusal sent against unread data may never arrive.
        """
        pieces, more = [], True
        # What is over the limit earns no time.
        incoming = Incoming(receive, self._timeout, self._max_body)
        while more:
            message = await incoming.next()
            if message["type"] == "http.disconnect":
                return None
            more = message.get("more_body", False)
            if incoming.size <= self._max_body:
                pieces.append(message.get("body", b""))
        if incoming.size > self._max_body:
            raise TooLarge(
                f"request body too large: {incoming.size} bytes, the limit is {self._max_body} (MLX_API_MAX_BODY)"
            )
        return b"".join(pieces)


async def _decoded(decoder: Decoder, body: bytes, headers: Headers) -> Call:
    if len(body) <= LARGE_BODY_BYTES:
        return decoder(body, headers)
    return await asyncio.to_thread(decoder, body, headers)
