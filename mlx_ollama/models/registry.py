"""A client of Ollama's registry protocol (wire-spec 6.2): a manifest by name, blobs by digest, both over HTTP."""

import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from mlx_ollama import gojson
from mlx_ollama.errors import JobFailed
from mlx_ollama.jobs import interruptible
from mlx_ollama.models.blobs import Blobs, check_digest, digest_of
from mlx_ollama.models.files import locked, publish
from mlx_ollama.models.manifest import MANIFEST_TYPE, Layer, Manifest
from mlx_ollama.models.names import ModelName
from mlx_ollama.types import Progress

CONNECT_SECONDS = 30.0
SILENCE_SECONDS = 60.0
TICK_SECONDS = 0.06
"""How often a download says how far it is."""

MOST_BYTES = 4 << 20
"""What is read of an answer that is no blob. Manifests have some kilobytes; what else is sent would fill the memory."""

ATTEMPTS = 6
_PAUSE_SECONDS = 0.5
_REALM = re.compile(r'realm="([^"]*)"')


class NotInRegistry(JobFailed):
    """The registry does not know the name, or lacks a blob."""


class Registry:
    """The registry that a name names. Nothing is asked of it before a method is called.

    `insecure` is for one that speaks plain HTTP; `address` is asked instead of the name's host, as `https://host`;
    `sleep` waits between attempts, `silence` is how long nothing may come, both in seconds.
    """

    def __init__(
        self,
        name: ModelName,
        *,
        insecure: bool = False,
        address: str = "",
        sleep: Callable[[float], None] = time.sleep,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        self._name = name
        address = address or f"{'http' if insecure else 'https'}://{name.host}"
        self._url = f"{address}/v2/{name.namespace}/{name.model}"
        self._sleep = sleep
        timeout = httpx.Timeout(silence, connect=CONNECT_SECONDS)
        # Packed, a few bytes could stand for more than fits into memory.
        self._http = httpx.Client(timeout=timeout, headers={"accept-encoding": "identity"})
        self._traced = {"trace": self._note_connection}
        self._sockets: list[socket.socket] = []
        self._is_over = False
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._open.enter_context(self._http)
        self._open.enter_context(interruptible(self._hang_up))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _hang_up(self) -> None:
        """Have whoever waits for the registry wait no longer, but for a connection to come about.

        To close a socket would not wake another thread.
        """
        self._is_over = True
        for connected in self._sockets:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def _note_connection(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith("connect_tcp.complete"):
            # TLS takes a socket away from whoever had it before.
            connected = info["return_value"].get_extra_info("socket").dup()
            self._sockets.append(self._open.enter_context(connected))
            if self._is_over:
                self._hang_up()

    def manifest(self) -> Manifest:
        """What the name stands for.

        Raises:
            JobFailed: in the reference's words; `file does not exist` for a name that is not there.
        """
        url = f"{self._url}/manifests/{self._name.tag}"
        with _in_go_words(url), self._asked(url, {"accept": MANIFEST_TYPE}) as answer:
            content = _content(answer)
        try:
            members: Any = gojson.loads(content)
            return Manifest.of(members)
        except gojson.GoSyntaxError as error:
            raise JobFailed(str(error)) from error
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise JobFailed(f"no manifest of a model: {error}") from error

    def fetch(self, layer: Layer, blobs: Blobs) -> Iterator[Progress]:
        """Bring a blob into the store, from where an earlier attempt stopped; several who want it take turns.

        Raises:
            JobFailed: if it cannot be had, or is not what it should be.
        """
        digest = check_digest(layer.digest)
        status = f"pulling {digest[7:19]}"
        partial = blobs.path(f"{digest}-partial")
        most = 0
        while not blobs.has(digest):
            with locked(blobs.path(f"{digest}-lock"), wait=False) as is_ours:
                if is_ours and not blobs.has(digest):
                    for completed in self._download(layer, partial):
                        # A server that sends everything again does not take back what was told.
                        most = max(most, min(completed, layer.size))
                        yield Progress(status, digest, layer.size, most)
                    self._keep(partial, digest, blobs)
                    return
            # Somebody else fetches it, and is as far as the file is long.
            most = max(most, min(_size(partial), layer.size))
            yield Progress(status, digest, layer.size, most)
            self._sleep(TICK_SECONDS)
        yield Progress(status, digest, layer.size, layer.size)

    def _download(self, layer: Layer, partial: Path) -> Iterator[int]:
        """The bytes that are there so far, now and then. What breaks off is taken up again."""
        attempt, before = 0, -1
        while (done := _size(partial)) < layer.size:
            # Whatever brings a byte is worth going on with.
            attempt, before = (attempt if done == before else 0), done
            try:
                yield from self._stream(layer, partial, done)
            except (httpx.HTTPError, JobFailed) as error:
                attempt += 1
                if attempt >= ATTEMPTS:
                    raise JobFailed(f"max retries exceeded: {error}") from error
                for _ in range(2**attempt):
                    self._sleep(_PAUSE_SECONDS)
                    # Here it is noticed if nobody waits any more.
                    yield done

    def _stream(self, layer: Layer, partial: Path, done: int) -> Iterator[int]:
        headers = {"range": f"bytes={done}-{layer.size - 1}"} if done else {}
        url = f"{self._url}/blobs/{layer.digest}"
        with self._asked(url, headers) as answer:
            resumed = answer.status_code == httpx.codes.PARTIAL_CONTENT
            done = done if resumed else 0
            told = time.monotonic()
            partial.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("ab" if resumed else "wb") as file:
                for piece in answer.iter_raw():
                    file.write(piece)
                    done += len(piece)
                    if time.monotonic() - told >= TICK_SECONDS:
                        told = time.monotonic()
                        yield done
        if done < layer.size:
            raise JobFailed(f"{layer.digest} ended after {done} of {layer.size} bytes")

    def _keep(self, partial: Path, digest: str, blobs: Blobs) -> None:
        """Have a download in the store if it is what it should be."""
        found = digest_of(partial, self._go_on)
        if found != digest.replace("-", ":"):
            partial.unlink()
            raise JobFailed(f"digest mismatch, file must be downloaded again: want {digest}, got {found}")
        publish(partial, blobs.path(digest))

    def _go_on(self, _: int) -> None:
        if self._is_over:
            raise JobFailed("nobody waits for this pull any more")

    @contextmanager
    def _asked(self, url: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """The beginning of an answer that is no error, from wherever the registry sends us.

        Left to the client, all that comes with the news of another place would be read.
        """
        request = self._http.build_request("GET", url, headers=headers, extensions=self._traced)
        for _ in range(self._http.max_redirects + 1):
            with closing(self._http.send(request, stream=True)) as answer:
                if answer.next_request is None:
                    self._check(answer)
                    yield answer
                    return
                request = answer.next_request
                # To its end, for the connection to serve again.
                _raw(answer)
        raise httpx.TooManyRedirects("Exceeded maximum allowed redirects.", request=request)

    def _check(self, answer: httpx.Response) -> None:
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise NotInRegistry("file does not exist")
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            found = _REALM.search(answer.headers.get("www-authenticate", ""))
            realm = urlsplit(found[1]).netloc if found else ""
            host = urlsplit(self._url).netloc
            if realm != host:
                raise JobFailed(f'realm host "{realm}" does not match original host "{host}"')
            raise JobFailed("unauthorized: this server has no account with the registry")
        if answer.status_code >= httpx.codes.BAD_REQUEST:
            raise JobFailed(f"{answer.status_code}: {_content(answer).decode(errors='replace').strip()}")


def _content(answer: httpx.Response) -> bytes:
    """All of an answer that is to be read at once.

    Raises:
        JobFailed: if it is too large for that, or packed.
    """
    encoding = answer.headers.get("content-encoding", "")
    if encoding.lower() not in ("", "identity"):
        raise JobFailed(f"the registry's answer is encoded as {encoding}, which nobody asked for")
    return _raw(answer)


def _raw(answer: httpx.Response) -> bytes:
    content = bytearray()
    for piece in answer.iter_raw():
        content += piece
        if len(content) > MOST_BYTES:
            raise JobFailed(f"the registry's answer has more than {MOST_BYTES} bytes")
    return bytes(content)


def _size(partial: Path) -> int:
    return partial.stat().st_size if partial.is_file() else 0


@contextmanager
def _in_go_words(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise JobFailed(f'Get "{url}": {_reason(error, urlsplit(url).netloc)}') from error


def _reason(error: httpx.HTTPError, host: str) -> str:
    causes = [error]
    while causes[-1].__cause__ is not None or causes[-1].__context__ is not None:
        causes.append(causes[-1].__cause__ or causes[-1].__context__)  # type: ignore[arg-type]
    if any(isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS for cause in causes):
        return "tls: first record does not look like a TLS handshake"
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return f"dial tcp {host}: connect: connection refused"
    return str(error)


_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
