"""The routes of the model store: create, copy, delete, pull, push and blobs (wire-spec section 6)."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlx_ollama.dialects.answers import NDJSON, PLAIN_JSON
from mlx_ollama.dialects.ollama_models import encode_failure, encode_progress
from mlx_ollama.errors import InvalidRequest, JobFailed, ModelNotFound
from mlx_ollama.jobs import in_threads
from mlx_ollama.library import Library
from mlx_ollama.models.blobs import Blobs, check_digest
from mlx_ollama.policies.body import Incoming
from mlx_ollama.routes import JsonResponse, Resource
from mlx_ollama.types import Progress

UPLOADS = "/api/blobs/"
"""What comes here is not read before its route wants it: it may be larger than memory."""

_PIECE_BYTES = 1 << 20


class BlobMissing(ModelNotFound):
    """`blob "…" not found`."""

    def __init__(self, digest: str) -> None:
        super().__init__(f'blob "{digest}" not found')


class ProgressStream(Response):
    """A job's lines as they come.

    The status is sent with the first line, so whatever fails before it has a status of its own, and what fails later
    is the last line (wire-spec 6.1, 6.4), which `policies/errors.py` adds in the words that are left for it.
    """

    def __init__(self, job: AsyncGenerator[Progress, None]) -> None:
        self._job = job
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["last_words"] = lambda message: encode_failure(message) + b"\n"
        async with aclosing(self._job) as job:
            first = await anext(job)
            headers = [(b"content-type", NDJSON.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await _line(send, encode_progress(first))
            async for progress in job:
                await _line(send, encode_progress(progress))
        await send({"type": "http.response.body", "body": b""})


def store_resources(library: Library, *, body_timeout: float) -> dict[str, Resource]:
    """Every path of the store. `body_timeout` is how many seconds a blob may stop arriving."""

    async def create(request: Request) -> Response:
        return await _answer(request, library.create(request.state.call))

    async def pull(request: Request) -> Response:
        return await _answer(request, library.pull(request.state.call))

    async def push(request: Request) -> Response:
        return await _answer(request, library.push(request.state.call))

    async def copy(request: Request) -> Response:
        await asyncio.to_thread(library.copy, request.state.call)
        return Response()

    async def delete(request: Request) -> Response:
        await asyncio.to_thread(library.delete, request.state.call)
        return Response()

    return {
        "/api/create": Resource({"POST": create}),
        "/api/pull": Resource({"POST": pull}),
        "/api/push": Resource({"POST": push}),
        "/api/copy": Resource({"POST": copy}),
        "/api/delete": Resource({"DELETE": delete}),
        f"{UPLOADS}{{digest}}": _blobs(library.store.blobs, body_timeout),
    }


def _blobs(blobs: Blobs, body_timeout: float) -> Resource:
    async def has_blob(request: Request) -> Response:
        digest = check_digest(request.path_params["digest"])
        if not blobs.has(digest):
            raise BlobMissing(digest)
        found = Response()
        del found.headers["content-length"]
        return found

    async def put_blob(request: Request) -> Response:
        digest = check_digest(request.path_params["digest"])
        if blobs.has(digest):
            # To its end, though nobody needs it: whoever is still sending would lose an answer that comes before.
            await _receive(request, _pass_over, body_timeout)
            return Response()
        with blobs.writer() as blob:
            if not await _receive(request, blob.write, body_timeout):
                # The client has gone, and nobody reads this.
                return Response(status_code=400)
            received = await asyncio.to_thread(blob.keep)
        if received != digest:
            raise InvalidRequest(f'digest mismatch, expected "{digest}", got "{received}"')
        return Response(status_code=201)

    return Resource({"HEAD": has_blob, "POST": put_blob})


async def _answer(request: Request, job: Iterator[Progress]) -> Response:
    """A job's lines, or its last one alone if the caller does not want a stream."""
    # From here on errors are worded as answers are.
    request.state.job = True
    if request.state.call.stream:
        return ProgressStream(in_threads(job))
    async with aclosing(in_threads(job)) as steps:
        lines = [encode_progress(progress) async for progress in steps]
    return JsonResponse(lines[-1], {"content-type": PLAIN_JSON})


async def _receive(request: Request, write: Callable[[bytes], None], timeout_seconds: float) -> bool:
    """Write a body as it comes, a megabyte at a time in a thread: disks take longer than the loop may wait.

    False if the client left before its end.

    Raises:
        TooSlow: for a body that stops arriving, or trickles.
        JobFailed: for want of room.
    """
    incoming = Incoming(request.receive, timeout_seconds)
    pieces: list[bytes] = []
    written = 0
    more = True
    while more:
        message = await incoming.next()
        if message["type"] == "http.disconnect":
            return False
        more = message.get("more_body", False)
        pieces.append(message.get("body", b""))
        if not more or incoming.size - written >= _PIECE_BYTES:
            await asyncio.to_thread(_written, write, b"".join(pieces))
            pieces.clear()
            written = incoming.size
    return True


def _written(write: Callable[[bytes], None], piece: bytes) -> None:
    try:
        write(piece)
    except OSError as error:
        raise JobFailed(f"the blob cannot be written: {error.strerror}") from error


def _pass_over(piece: bytes) -> None:
    """What a body that nobody needs is written to."""


async def _line(send: Send, line: bytes) -> None:
    await send({"type": "http.response.body", "body": line + b"\n", "more_body": True})
