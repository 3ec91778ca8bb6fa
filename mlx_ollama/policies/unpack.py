"""Request bodies that come compressed (wire-spec 8.6)."""

from collections.abc import Mapping

from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

from mlx_ollama.errors import InvalidRequest, TooLarge

MOST_UNPACKED_BYTES = 20 << 20
_LONGEST_NAME = 64
_LARGEST_WINDOW: Mapping[int, int] = {DecompressionParameter.window_log_max: 25}
"""As a power of two: what a frame of the largest body may ask for, and no more memory than that."""


def unpacked(body: bytes, encoding: str, most: int = MOST_UNPACKED_BYTES) -> bytes:
    """A body as it was before its `Content-Encoding`, at most `most` bytes.

    The reference knows zstd, on one path; here it is known on all of them, and other encodings are refused instead of
    being taken for JSON.

    Raises:
        InvalidRequest: for another encoding, or what is not one whole zstd frame.
        TooLarge: for a body that grows beyond `most`.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name != "zstd":
        raise InvalidRequest(
            f"Content-Encoding {name[:_LONGEST_NAME]!r} is not supported: send the body uncompressed or as zstd"
        )
    frame = ZstdDecompressor(options=_LARGEST_WINDOW)
    try:
        plain = frame.decompress(body, most + 1)
    except ZstdError as error:
        raise InvalidRequest(f"failed to decompress zstd body: {error}") from error
    if len(plain) > most:
        raise TooLarge(f"request body too large: it unpacks to more than {most} bytes")
    if not frame.eof or frame.unused_data:
        raise InvalidRequest("failed to decompress zstd body: it is not one whole frame")
    return plain
