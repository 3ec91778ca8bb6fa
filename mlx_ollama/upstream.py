"""The server that answers in our place: asked over HTTP, spared while it is down."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import httpx
import orjson

from mlx_ollama.errors import InvalidRequest, UpstreamDown
from mlx_ollama.reaching import reason
from mlx_ollama.supervision import CircuitBreaker

logger = logging.getLogger(__name__)

Header = tuple[bytes, bytes]

HOP_HEADER = "x-mlx-ollama-hop"
"""Who gets a request with it answers by itself: so two servers that are each other's upstream do not go in circles."""

CONNECT_SECONDS = 5.0
LISTING_SECONDS = 5.0
"""A list of models is short work, and somebody waits for ours, too."""

IDLE_CONNECTIONS = 20

_OF_ONE_CONNECTION = {
    *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te"),
    *(b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings"),
}
"""Headers that are between two ends of one connection (RFC 9110, 7.6.1)."""

_NOT_FOR_UPSTREAM = {b"host", b"content-length", b"expect", b"cookie", b"origin"}
"""Said anew on the way out, or to us alone: what a web page may do is decided here."""


class Upstream:
    """An Ollama server at `url`. `withheld` are request headers that are none of its business; `clock` is monotonic."""

    def __init__(
        self,
        url: str,
        *,
        withheld: Iterable[str] = (),
        breaker: CircuitBreaker | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url.rstrip("/")
        self._base = httpx.URL(self.url)
        self._withheld = _NOT_FOR_UPSTREAM | {name.encode() for name in withheld}
        self._breaker = breaker or CircuitBreaker()
        self._clock = clock
        self._client = httpx.AsyncClient(
            trust_env=False,
            # An answer may take as long as it takes: deadlines and hang-ups end it from outside.
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=IDLE_CONNECTIONS),
        )

    @asynccontextmanager
    async def ask(
        self, method: str, target: bytes, headers: Iterable[Header], body: bytes = b""
    ) -> AsyncIterator[httpx.Response]:
        """Its answer to a request, of which status and headers are there, and the body is still to come.

        `target` is path and query as they came. Leaving the block ends the request.

        Raises:
            UpstreamDown: if it cannot be reached, breaks off, or was down a moment ago.
            InvalidRequest: for an address that cannot be asked for.
        """
        now = self._clock()
        if not self._breaker.allow(now):
            raise self._down("is down", math.ceil(self._breaker.retry_in(now)))
        request = self._request(method, target, headers, body)
        try:
            response = await self._client.send(request, stream=True)
        except httpx.LocalProtocolError as error:
            # A header that HTTP/1.1 does not have: its caller's fault, and none of the upstream's.
            raise InvalidRequest(f"the upstream cannot be asked this: {error}") from error
        except httpx.TransportError as error:
            self._breaker.failed(self._clock())
            raise self._down(f"does not answer ({reason(error)})") from error
        self._breaker.succeeded()
        try:
            yield response
        except httpx.TransportError as error:
            raise self._down(f"broke off its answer ({reason(error)})") from error
        finally:
            await response.aclose()

    async def listed(self, target: bytes, headers: Iterable[Header]) -> object:
        """The decoded JSON of one of its lists, None if there is none to be had."""
        plain = [(name, value) for name, value in headers if name != b"accept-encoding"]
        try:
            async with asyncio.timeout(LISTING_SECONDS), self.ask("GET", target, plain) as answer:
                body = await answer.aread()
                return orjson.loads(body) if answer.is_success else None
        except TimeoutError:
            self._breaker.failed(self._clock())
            logger.warning("the upstream %s is too slow to list its models", self.url)
        except UpstreamDown as error:
            logger.warning("%s", error)
        except (orjson.JSONDecodeError, httpx.DecodingError, InvalidRequest):
            logger.warning("the upstream %s lists its models in a way that is not known", self.url)
        return None

    async def close(self) -> None:
        await self._client.aclose()

    def _request(self, method: str, target: bytes, headers: Iterable[Header], body: bytes) -> httpx.Request:
        kept = [header for header in _beyond_one_connection(headers) if header[0] not in self._withheld]
        try:
            url = self._base.copy_with(raw_path=self._base.raw_path.rstrip(b"/") + target)
        except httpx.InvalidURL as error:
            raise InvalidRequest(f"the upstream cannot be asked for this address: {error}") from error
        return httpx.Request(method, url, headers=[*kept, (HOP_HEADER.encode(), b"1")], content=body or None)

    def _down(self, how: str, retry_after: int | None = None) -> UpstreamDown:
        again = "" if retry_after is None else f" and is asked again in {retry_after} s"
        error = UpstreamDown(f"the upstream {self.url} {how}{again}")
        error.retry_after = retry_after
        return error


def answered_headers(response: httpx.Response) -> list[Header]:
    """The headers of an answer that go on to whoever asked; the date is said by the server that sends it."""
    return [header for header in _beyond_one_connection(response.headers.raw) if header[0] != b"date"]


def _beyond_one_connection(headers: Iterable[Header]) -> list[Header]:
    lowered = [(name.lower(), value) for name, value in headers]
    named = {part.strip().lower() for name, value in lowered if name == b"connection" for part in value.split(b",")}
    return [header for header in lowered if header[0] not in _OF_ONE_CONNECTION | named]
