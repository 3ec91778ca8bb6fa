import string

from hypothesis import given
from hypothesis import strategies as st

from mlx_ollama.console.wordwrap import WordWrap, columns_of


def shown(written: str, width: int) -> list[str]:
    """The lines of a terminal of that width, without blanks at their ends."""
    lines: list[list[str]] = [[]]
    at, rest = 0, written
    while rest:
        if rest.startswith("\x1b["):
            code = next(index for index, character in enumerate(rest[2:], 2) if character.isalpha())
            if rest[code] == "D":
                # A cursor behind the last column stands on it.
                at = max(0, min(at, width - 1) - int(rest[2:code]))
            else:
                del lines[-1][at:]
            rest = rest[code + 1 :]
            continue
        character, rest = rest[0], rest[1:]
        if character == "\n":
            lines.append([])
            at = 0
            continue
        if at == width:
            lines.append([])
            at = 0
        del lines[-1][at:]
        lines[-1].append(character)
        at += 1
    return ["".join(line).rstrip() for line in lines]


def wrapped(pieces: list[str], width: int) -> list[str]:
    wrap = WordWrap(width)
    return shown("".join(wrap.feed(piece) for piece in pieces), width)


def test_words_stay_whole() -> None:
    assert wrapped(["one two three four"], 9) == ["one two", "three", "four"]
    assert wrapped(["one tw", "o thr", "ee four"], 9) == ["one two", "three", "four"]
    assert wrapped(["a\nb"], 9) == ["a", "b"]


def test_a_word_wider_than_a_line_is_broken_where_it_must() -> None:
    assert wrapped(["abcdefghij"], 4) == ["abcd", "efgh", "ij"]
    assert wrapped(["x abcdefghij y"], 4) == ["x", "abcd", "efgh", "ij y"]


def test_columns() -> None:
    assert columns_of("abc") == 3
    assert columns_of("日本") == 4
    assert columns_of("e\u0301\u200d") == 1


@given(st.lists(st.text(st.sampled_from(string.ascii_letters + "   "), max_size=12), max_size=12), st.integers(8, 30))
def test_nothing_is_lost_and_words_that_fit_are_never_broken(pieces: list[str], width: int) -> None:
    text = "".join(pieces)
    lines = wrapped(pieces, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(len(line) <= width for line in lines)
    words = {word for line in lines for word in line.split()}
    assert all(word in words for word in text.split() if len(word) < width)
