"""Filling in the middle: how models that were trained for it want prefix and suffix (wire-spec 3.1, `suffix`)."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class FillFormat:
    """The tokens that mark the parts, and a layout for `str.format`; what the model writes after it is the middle."""

    tokens: tuple[str, ...]
    layout: str

    def prompt(self, prefix: str, suffix: str) -> str:
        return self.layout.format(prefix=prefix, suffix=suffix)


def _in_order(begin: str, hole: str, end: str) -> FillFormat:
    return FillFormat((begin, hole, end), begin + "{prefix}" + hole + "{suffix}" + end)


FORMATS = (
    _in_order("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen Coder, CodeGemma
    _in_order("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite Code, Stable Code
    _in_order("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    _in_order("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek Coder  # noqa: RUF001
    _in_order("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM 4
    FillFormat(("▁<PRE>", "▁<SUF>", "▁<MID>"), "▁<PRE>{prefix}▁<SUF>{suffix}▁<MID>"),  # Code Llama
    FillFormat(("[SUFFIX]", "[PREFIX]"), "[SUFFIX]{suffix}[PREFIX]{prefix}"),  # Codestral
)


def fill_format(has_token: Callable[[str], bool]) -> FillFormat | None:
    """The format of a vocabulary; None for one that has none of them."""
    return next((known for known in FORMATS if all(has_token(token) for token in known.tokens)), None)
