import itertools
from collections.abc import Sequence

import pytest

from mlx_ollama.worker.text import TextStream


def _run(pieces: Sequence[bytes], stops: Sequence[str]) -> tuple[str, bool]:
    stream, said = TextStream(stops), []
    for piece in pieces:
        said.append(stream.add(piece))
        if stream.stopped:
            return "".join(said), True
    return "".join([*said, stream.flush()]), stream.stopped


def _splits(data: bytes, parts: int) -> list[list[bytes]]:
    cuts = itertools.combinations(range(1, len(data)), parts - 1)
    return [[data[a:b] for a, b in itertools.pairwise((0, *cut, len(data)))] for cut in cuts]


@pytest.mark.parametrize(
    ("text", "stops", "expected", "stopped"),
    [
        ("héllo😀 wörld", [], "héllo😀 wörld", False),
        ("one two STOP three", ["STOP"], "one two ", True),
        ("one STO two", ["STOP"], "one STO two", False),
        ("abcabd", ["abd"], "abc", True),
        ("aaab", ["aab"], "a", True),
        ("x<|im_end|>y", ["<|im_start|>", "<|im_end|>"], "x", True),
        ("end with <|im_", ["<|im_end|>"], "end with <|im_", False),
        ("STOP", ["STOP"], "", True),
        ("aXbY", ["Y", "X"], "a", True),
    ],
)
def test_the_same_however_it_is_cut(text: str, stops: list[str], expected: str, stopped: bool) -> None:
    data = text.encode()
    for parts in (1, 2, 3):
        for pieces in _splits(data, parts):
            assert _run(pieces, stops) == (expected, stopped)


def test_nothing_is_cut_inside_a_character() -> None:
    stream = TextStream([])
    said = [stream.add(bytes([byte])) for byte in "é😀".encode()]
    assert said == ["", "é", "", "", "", "😀"]


def test_only_what_may_become_a_stop_is_held_back() -> None:
    stream = TextStream(["<end>"])
    assert [stream.add(piece) for piece in (b"a<", b"en", b"x<e")] == ["a", "", "<enx"]
    assert stream.flush() == "<e"


def test_broken_utf8_at_the_end_is_replaced() -> None:
    stream = TextStream(["zz"])
    assert stream.add("é".encode()[:1]) == ""
    assert stream.flush() == "\ufffd"


def test_a_stop_in_the_last_breath_counts() -> None:
    stream = TextStream(["\ufffd"])
    assert stream.add("é".encode()[:1]) == ""
    assert stream.flush() == ""
    assert stream.stopped
