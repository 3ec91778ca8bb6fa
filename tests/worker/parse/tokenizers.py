"""Tokenizers with the marks of model families: their special tokens, and templates in their manner."""

# ruff: noqa: RUF001 - some tokens have these characters

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from mlx_lm.tokenizer_utils import load
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from mlx_ollama.worker.tokenizer import Tokenizer
from tests.support.tiny import write_tokenizer

_TALK = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}"
_THINKING = "{# <think> </think> #}"


def _shown(*markers: str) -> str:
    """Markers in a template, where they are never printed."""
    return "{% if false %}" + "".join(markers) + "{% endif %}"


FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "qwen3": (_TOOLS + _THINKING + _shown("<tool_call>{{ tool_call.name }}") + _TALK, ("<think>", "</think>")),
    "qwen3-coder": (_TOOLS + _shown("<tool_call>\n<function=f>") + _TALK, ()),
    "qwen3.5": (
        _TOOLS
        + _shown("<tool_call>\n<function=f>")
        + _TALK
        + "{% if enable_thinking %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}",
        ("<think>", "</think>"),
    ),
    "hermes": (_TOOLS + _shown("<tool_call>") + _TALK, ()),
    "deepseek-r1": (
        _TOOLS + _shown("</think><｜tool▁calls▁begin｜>") + _TALK + "<think>\n",
        ("<think>", "</think>", "<｜tool▁calls▁begin｜>"),
    ),
    "deepseek-v3": (_TOOLS + _shown("<｜tool▁calls▁begin｜>") + _TALK, ("<｜tool▁calls▁begin｜>",)),
    "llama3": (_TOOLS + _shown("<|python_tag|>") + _TALK, ("<|python_tag|>", "<|eom_id|>")),
    "mistral": (_TOOLS + _shown("[TOOL_CALLS]") + _TALK, ("[TOOL_CALLS]", "[ARGS]")),
    "magistral": (
        _TOOLS + _shown("[TOOL_CALLS][THINK][/THINK]") + _TALK,
        ("[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]"),
    ),
    "phi4": (_TOOLS + _shown("<|tool|><|/tool|>") + _TALK, ("<|tool_call|>", "<|/tool_call|>")),
    "granite": (_TOOLS + _shown("<|tool_call|>") + _TALK, ("<|tool_call|>",)),
    "glm": (_TOOLS + _THINKING + _shown("<tool_call>f<arg_key>") + _TALK, ("<think>", "</think>")),
    "longcat": (_TOOLS + _shown("<longcat_tool_call>") + _TALK, ()),
    "kimi": (_TOOLS + _shown("<|tool_calls_section_begin|>") + _TALK, ("<|tool_calls_section_begin|>",)),
    "kimi-k3": (_TOOLS + _TALK, ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>")),
    "functiongemma": (_TOOLS + _shown("<start_function_call>") + _TALK, ("<start_function_call>", "<escape>")),
    "gemma4": (
        _TOOLS + _shown("<|channel>thought<channel|><|tool_call>call:<tool_call|>") + _TALK,
        ("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", '<|"|>'),
    ),
    "lfm2": (_TOOLS + _shown("<|tool_call_start|>") + _TALK, ("<|tool_call_start|>", "<|tool_call_end|>")),
    "minimax": (_TOOLS + _THINKING + _shown("<minimax:tool_call>") + _TALK, ("<think>", "</think>")),
    "cohere": (
        _TOOLS + _shown("<|START_ACTION|><|START_THINKING|><|END_THINKING|>") + _TALK,
        ("<|START_ACTION|>", "<|END_ACTION|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ),
    "cohere-text": (
        _TOOLS + _shown("<|START_ACTION|><|START_THINKING|><|END_THINKING|><|START_TEXT|>") + _TALK,
        ("<|START_ACTION|>", "<|END_ACTION|>", "<|START_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    ),
    "gpt-oss": (
        _TOOLS
        + _shown("<|start|><|channel|><|message|>")
        + "{{ 'Reasoning: ' ~ reasoning_effort }}"
        + "{% for message in messages %}<|start|>{{ message.role }}<|message|>{{ message.content }}<|end|>{% endfor %}"
        + "{% if add_generation_prompt %}<|start|>assistant{% endif %}",
        ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>", "<|constrain|>"),
    ),
    "unknown": (_TOOLS + _TALK, ()),
    "plain": (_TALK, ()),
}


@cache
def tokenizer_of(family: str) -> Tokenizer:
    """A tokenizer that mlx-lm loads and detects as it does the family's own."""
    template, tokens = FAMILIES[family]
    with TemporaryDirectory() as name:
        directory = Path(name)
        write_tokenizer(directory)
        hf = PreTrainedTokenizerFast.from_pretrained(directory)
        hf.add_tokens([AddedToken(token, special=True) for token in tokens])
        hf.chat_template = template
        hf.save_pretrained(directory)
        return Tokenizer(load(directory))
