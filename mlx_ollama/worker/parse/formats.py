"""How a model with a Jinja chat template writes calls (wire-spec 10.3).

mlx-lm's detection comes first. Its readers are used but for those that pass over what they do not understand, or that
cannot tell where a call without an end tag ends; for these, and for the families that it does not know, there are ours.
"""

from collections.abc import Mapping

from mlx_ollama.gotemplate import Template
from mlx_ollama.models.parsers import Calls
from mlx_ollama.worker.parse.calls import Block
from mlx_ollama.worker.parse.deepseek import CALLS_BEGIN, CALLS_END, deepseek_calls
from mlx_ollama.worker.parse.fenced import FencedBlock
from mlx_ollama.worker.parse.foreign import foreign_reader
from mlx_ollama.worker.parse.gemma import gemma_calls
from mlx_ollama.worker.parse.generic import block_of
from mlx_ollama.worker.parse.json_block import JsonBlock
from mlx_ollama.worker.parse.markup import keyed_reader, qwen_calls
from mlx_ollama.worker.tokenizer import Tokenizer

_HERMES = JsonBlock(("<tool_call>",), ("</tool_call>",))
_KEYED = FencedBlock("<tool_call>", "</tool_call>", keyed_reader())
_QWEN_XML = (
    FencedBlock("<tool_call>", "</tool_call>", qwen_calls),
    # The outer tag is forgotten now and then.
    FencedBlock("<function=", "</function>", qwen_calls, whole=True, ends=("</tool_call>",)),
)
_BY_MLX_KIND: Mapping[str, tuple[Block, ...]] = {
    "json_tools": (_HERMES,),
    "qwen3_coder": _QWEN_XML,
    "glm47": (_KEYED,),
    "laguna": (_KEYED,),
    "longcat": (FencedBlock("<longcat_tool_call>", "</longcat_tool_call>", keyed_reader("longcat_")),),
    "mistral": (JsonBlock(("[TOOL_CALLS]",), named=True, argument_mark="[ARGS]"),),
    "function_gemma": (FencedBlock("<start_function_call>", "<end_function_call>", gemma_calls),),
}
_NO_JSON: tuple[tuple[str, tuple[Block, ...]], ...] = (
    (CALLS_BEGIN, (FencedBlock(CALLS_BEGIN, CALLS_END, deepseek_calls),)),
    ("<start_function_call>", _BY_MLX_KIND["function_gemma"]),
    ("<arg_key>", (_KEYED,)),
    ("<function=", _QWEN_XML),
)
"""Formats in which a JSON object is not the whole call, by what a template has in it."""

_COHERE = (JsonBlock(("<|START_ACTION|>",), ("<|END_ACTION|>",)),)
_BY_MARKER: tuple[tuple[str, tuple[Block, ...]], ...] = (
    *_NO_JSON,
    ("<|START_ACTION|>", _COHERE),
    # Phi-4, and then Granite, which has no end tag.
    ("<|/tool|>", (JsonBlock(("<|tool_call|>", "functools"), ("<|/tool_call|>",), leads=True),)),
    ("<|tool_call|>", (JsonBlock(("<|tool_call|>",)),)),
    ("<tool_call>", (_HERMES,)),
)
_BY_NAME: Mapping[Calls, tuple[Block, ...]] = {
    "": (),
    "json": (_HERMES,),
    "xml": _QWEN_XML,
    "keyed": (_KEYED,),
    "mistral": _BY_MLX_KIND["mistral"],
    "deepseek": (FencedBlock(CALLS_BEGIN, CALLS_END, deepseek_calls),),
    "cohere": _COHERE,
    "function_gemma": _BY_MLX_KIND["function_gemma"],
}
_LLAMA = JsonBlock(("<|python_tag|>",), leads=True)
"""Also for models whose template tells nothing: JSON at the front of an answer."""

_MEANINGLESS = (
    "<|START_RESPONSE|>",
    "<|END_RESPONSE|>",
    "<|START_TEXT|>",
    "<|END_TEXT|>",
    "<|eom_id|>",
)
_ANSWER_MARKS = {
    "<|END_THINKING|>": ("<|START_RESPONSE|>", "<|START_TEXT|>"),
    "<|close|>think<|sep|>": ("<|open|>response<|sep|>",),
}
"""What families put between their thinking, by its closing tag, and their answer."""


def blocks_of(tokenizer: Tokenizer) -> tuple[Block, ...]:
    """The ways in which the model may write a call."""
    found = tokenizer.mlx_calls
    if found and found.kind in _BY_MLX_KIND:
        return _BY_MLX_KIND[found.kind]
    if found and found.end:
        return (FencedBlock(found.start, found.end, foreign_reader(found.kind, found.parse)),)
    template = tokenizer.chat_template
    return next((blocks for marker, blocks in _BY_MARKER if marker in template), (_LLAMA,))


def blocks_named(calls: Calls) -> tuple[Block, ...]:
    """The ways of a family that a Modelfile names."""
    return _BY_NAME[calls]


def blocks_of_go(template: Template) -> tuple[Block, ...]:
    """The same for a Go template, most of which tell by themselves how a call is written (wire-spec 4.4)."""
    return next((blocks for marker, blocks in _NO_JSON if marker in template.text), (block_of(template),))


def meaningless(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Tags that the model puts around its answer and nobody wants to read."""
    return (*tokenizer.structural_markers, *(tag for tag in _MEANINGLESS if tokenizer.has_token(tag)))


def answer_mark(tokenizer: Tokenizer, closing: str) -> str:
    """What the model writes in front of its answer, behind the `closing` tag of its thinking; empty for nothing."""
    known = meaningless(tokenizer)
    marks = [mark for mark in _ANSWER_MARKS.get(closing, ()) if mark in known]
    # A tokenizer may have those of two generations.
    return next((mark for mark in marks if mark in tokenizer.chat_template), marks[0] if marks else "")
