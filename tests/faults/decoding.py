"""What fuzzers may find: a decoder reads bytes to a call, or refuses them in words; nothing else ever comes out."""

from contextlib import suppress

from starlette.datastructures import Headers

from mlx_ollama.doors import DECODERS
from mlx_ollama.errors import InvalidOption, MlxOllamaError
from mlx_ollama.framing import Decoder, ProtocolError
from mlx_ollama.policies.errors import status_of

BOUNDARY = "edge"
HEADERS = Headers({"content-type": f"multipart/form-data; boundary={BOUNDARY}"})
NAMES: tuple[tuple[str, str], ...] = tuple(DECODERS)


def decode(name: tuple[str, str], body: bytes) -> None:
    """Have the decoder of a method and path read a body.

    Raises:
        AssertionError: for a refusal that would be a fault of the server's. (Options of a wrong type are 500 in Ollama,
            and therefore here.)
    """
    try:
        DECODERS[name](body, HEADERS)
    except InvalidOption:
        return
    except MlxOllamaError as error:
        refusal = error
    else:
        return
    assert status_of(refusal) < 500, refusal
    assert refusal.message


def receive(data: bytes) -> None:
    """Have the gateway take what a worker may send."""
    decoder = Decoder()
    with suppress(ProtocolError):
        for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
            for _ in decoder.feed(piece):
                pass
