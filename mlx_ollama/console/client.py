"""The server, as the commands that need one speak with it: Ollama's API over HTTP."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import httpx
import orjson

from mlx_ollama.errors import MlxOllamaError
from mlx_ollama.ndjson import Lines
from mlx_ollama.reaching import address, authorization

NOT_FOUND = 404
"""The status where there is no such model."""

_CONNECT_SECONDS = 5.0


class NoServer(MlxOllamaError):
    """Nothing answers at the address of the settings; the message says what to start."""

    def __init__(self, url: str) -> None:
        super().__init__(
            f"no server answers at {url}; start one with `mlx-ollama serve`, or name another one "
            "with --host and --port (MLX_API_HOST, MLX_API_PORT)"
        )


class Refused(MlxOllamaError):
    """The server's own words; `status` is 200 where they came in the middle of a stream."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Requests to one server, for as long as the `with` block lasts.

    The first of `keys` is shown to it, where there are some. Loading a model and reading a long prompt take their time:
    nothing but connecting is timed.
    """

    def __init__(self, host: str, port: int, keys: Sequence[str] = ()) -> None:
        self.url = address(host, port)
        timeout = httpx.Timeout(None, connect=_CONNECT_SECONDS)
        # A proxy of the environment has no business between a machine and itself.
        self._http = httpx.Client(
            base_url=self.url, headers=authorization(next(iter(keys), "")), timeout=timeout, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at a path.

        Raises:
            NoServer, Refused: if there is none.
        """
        return self._whole("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object that answers a body; an empty one for none.

        Raises:
            NoServer, Refused: if it is an error.
        """
        return self._whole("POST", path, body)

    def stream(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The lines that answer a body, as they come. To close the generator is to end the answer.

        Raises:
            NoServer, Refused: if it is an error, or ends with one.
        """
        with self._reaching(), self._http.stream("POST", path, content=orjson.dumps(body)) as response:
            if response.is_error:
                raise _refusal(response.read(), response.status_code)
            lines = Lines()
            for piece in response.iter_bytes():
                for line in lines.of(piece):
                    yield _object(line, response.status_code)
            for line in lines.last():
                yield _object(line, response.status_code)

    def _whole(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        with self._reaching():
            response = self._http.request(method, path, content=orjson.dumps(body) if body is not None else None)
        if response.is_error:
            raise _refusal(response.content, response.status_code)
        return _object(response.content, response.status_code)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NoServer(self.url) from error
        except httpx.TransportError as error:
            raise Refused(f"the server at {self.url} went away: {error}", 0) from error


def _object(content: bytes, status: int) -> dict[str, Any]:
    if not content.strip():
        return {}
    try:
        value = orjson.loads(content)
    except ValueError as error:
        raise Refused("what answers there is no server of this kind", status) from error
    if not isinstance(value, dict):
        raise Refused("what answers there is no server of this kind", status)
    if value.get("error"):
        raise Refused(_words(value["error"]), status)
    return value


def _refusal(content: bytes, status: int) -> Refused:
    try:
        _object(content, status)
    except Refused as refused:
        return refused
    return Refused(f"the server answered with status {status}", status)


def _words(error: Any) -> str:
    return str(error.get("message", error)) if isinstance(error, Mapping) else str(error)
