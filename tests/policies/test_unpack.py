"""Bodies that come compressed, within bounds."""

import time

import pytest
from backports import zstd

from mlx_ollama.errors import InvalidRequest, MlxOllamaError, TooLarge
from mlx_ollama.policies.unpack import MOST_UNPACKED_BYTES, unpacked

BODY = b'{"model":"m"}' * 100


@pytest.mark.parametrize("encoding", ["zstd", " ZStd "])
@pytest.mark.parametrize("level", [1, 19, 22])
def test_zstd(encoding: str, level: int) -> None:
    assert unpacked(zstd.compress(BODY, level), encoding) == BODY


@pytest.mark.parametrize("encoding", ["", "identity"])
def test_nothing_to_do(encoding: str) -> None:
    assert unpacked(BODY, encoding) == BODY


def test_a_stream_that_does_not_know_its_length() -> None:
    packer = zstd.ZstdCompressor()
    assert unpacked(packer.compress(BODY) + packer.compress(BODY) + packer.flush(), "zstd") == 2 * BODY


def test_the_largest_body_is_twenty_mebibytes() -> None:
    largest = bytes(MOST_UNPACKED_BYTES)
    assert unpacked(zstd.compress(largest), "zstd") == largest
    with pytest.raises(TooLarge, match=f"unpacks to more than {MOST_UNPACKED_BYTES} bytes"):
        unpacked(zstd.compress(largest + b"\0"), "zstd")


def test_bombs_do_not_go_off() -> None:
    packer = zstd.ZstdCompressor()
    piece = bytes(1 << 24)
    bomb = b"".join(packer.compress(piece) for _ in range(64)) + packer.flush()
    began = time.process_time()
    with pytest.raises(TooLarge):
        unpacked(bomb, "zstd")
    assert time.process_time() - began < 1


GREEDY = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})


@pytest.mark.parametrize(
    ("body", "encoding", "why"),
    [
        (b"{}", "gzip", "Content-Encoding 'gzip' is not supported: send the body uncompressed or as zstd"),
        (b"{}", "zstd, gzip", "Content-Encoding 'zstd, gzip' is not supported"),
        (b"{}", "zstd", "failed to decompress zstd body: "),
        (b"", "zstd", "failed to decompress zstd body: it is not one whole frame"),
        (zstd.compress(BODY)[:-3], "zstd", "failed to decompress zstd body: it is not one whole frame"),
        (zstd.compress(BODY) * 2, "zstd", "failed to decompress zstd body: it is not one whole frame"),
        (GREEDY.compress(BODY) + GREEDY.flush(), "zstd", "failed to decompress zstd body: .*too much memory"),
    ],
)
def test_what_cannot_be_unpacked(body: bytes, encoding: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as raised:
        unpacked(body, encoding)
    assert isinstance(raised.value, MlxOllamaError)
