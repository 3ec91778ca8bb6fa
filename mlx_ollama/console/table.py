"""Columns of text: a heading, cells to the left, four blanks between."""

from collections.abc import Iterable, Sequence

from mlx_ollama.console.wordwrap import columns_of

_GAP = "    "


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Every line ends with a newline and without blanks; an empty heading is left out."""
    lines = [*([heading] if heading else []), *rows]
    widths = [max(columns_of(line[column]) for line in lines) for column in range(len(lines[0]))] if lines else []
    return "".join(
        _GAP.join(cell + " " * (width - columns_of(cell)) for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )


def indented(text: str, by: str) -> str:
    """Every line of a text moved to the right."""
    return "".join(f"{by}{line}" for line in text.splitlines(keepends=True))
