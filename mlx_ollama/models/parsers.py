"""What PARSER and RENDERER of a Modelfile stand for (wire-spec 10.3, 10.4)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Calls = Literal["", "json", "xml", "keyed", "mistral", "deepseek", "cohere", "function_gemma"]


@dataclass(frozen=True)
class NamedParser:
    """How a model writes its calls and its thinking.

    `calls` is the family of its call format, empty for none; `tags` stand around its thinking, None for none.

    `harmony` is for models that write on channels, which have both.
    """

    calls: Calls = ""
    tags: tuple[str, str] | None = None
    harmony: bool = False

    @property
    def capabilities(self) -> tuple[str, ...]:
        tools = ("tools",) if self.calls or self.harmony else ()
        return (*tools, *(("thinking",) if self.tags or self.harmony else ()))


_THINK = ("<think>", "</think>")

PARSERS: Mapping[str, NamedParser] = {
    "qwen3": NamedParser("json"),
    "qwen3-thinking": NamedParser("json", _THINK),
    "qwen3-vl-instruct": NamedParser("json"),
    "qwen3-vl-thinking": NamedParser("json", _THINK),
    "qwen3-coder": NamedParser("xml"),
    "qwen3.5": NamedParser("xml", _THINK),
    "ornith": NamedParser("xml", _THINK),
    "nemotron-3-nano": NamedParser("xml", _THINK),
    "nemotron-3.5-nano": NamedParser("xml", _THINK),
    "ministral": NamedParser("mistral", ("[THINK]", "[/THINK]")),
    "harmony": NamedParser(harmony=True),
    "cogito": NamedParser("deepseek", _THINK),
    "deepseek3": NamedParser("deepseek", _THINK),
    "olmo3-think": NamedParser(tags=_THINK),
    "functiongemma": NamedParser("function_gemma"),
    "glm-4.7": NamedParser("keyed", _THINK),
    "laguna": NamedParser("keyed", _THINK),
    "poolside-v1": NamedParser("keyed", _THINK),
    "cohere": NamedParser("cohere", ("<|START_THINKING|>", "<|END_THINKING|>")),
    "passthrough": NamedParser(),
}
"""Names that are not in here are left to what the model's template tells."""

RENDERERS = frozenset(
    (
        *("qwen3-coder", "qwen3-vl-instruct", "qwen3-vl-thinking", "qwen3.5", "qwen3.8", "ornith", "cogito"),
        *("deepseek3.1", "olmo3", "olmo3.1", "olmo3-think", "olmo3-32b-think", "nemotron-3-nano", "nemotron-3.5-nano"),
        *("gemma4", "gemma4-small", "gemma4-large", "functiongemma", "glm-4.7", "glm-ocr", "lfm2", "lfm2-thinking"),
        *("laguna", "poolside-v1", "cohere", "glimmer"),
    )
)
"""Names that the reference has a renderer for. Here they all stand for the chat template that came with the model."""
