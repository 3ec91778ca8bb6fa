"""From messages or text to the token ids that the model reads (wire-spec 4.3, 9.3, 12.2)."""

from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

import orjson

from mlx_ollama.errors import PromptTooLong, TemplateFailed, Unsupported
from mlx_ollama.fim import fill_format
from mlx_ollama.gotemplate import Template, TemplateError, render_fill, render_messages
from mlx_ollama.protocol import Prompt
from mlx_ollama.thinking import speaks_harmony
from mlx_ollama.types import Message
from mlx_ollama.worker.jinja import render_chat
from mlx_ollama.worker.legal_names import LegalNames
from mlx_ollama.worker.tokenizer import Tokenizer

LONGEST_REMEMBERED_TEMPLATE = 1 << 16
"""Characters; the longest of the common families has a tenth of that."""


@dataclass(frozen=True)
class PromptTokens:
    """A prompt ready to be read: `text` and `whole` as rendered, `fed` cut to the context where it had to be."""

    text: str
    whole: list[int]
    fed: list[int]


def kind_of(prompt: Prompt) -> str:
    """What prompts must share besides their tokens before one is read from where another left off: template and tools.

    Weights and adapters are the worker's own, and never change.
    """
    if prompt.style == "raw":
        return "raw"
    return sha256(orjson.dumps([prompt.style, prompt.template, prompt.tools], default=float)).hexdigest()


def render(prompt: Prompt, tokenizer: Tokenizer) -> str:
    """The prompt as text.

    Raises:
        TemplateFailed: for a template that does not parse or run.
    """
    return tokenizer.decode(prompt.prefix) + _body(prompt, prompt.messages, tokenizer)


def tokenize(prompt: Prompt, tokenizer: Tokenizer) -> PromptTokens:
    """The prompt as token ids, shortened where it may be (wire-spec 9.3).

    Raises:
        TemplateFailed: for a template that does not parse or run.
        PromptTooLong: if it does not fit and must not be shortened.
    """
    if prompt.drop_oldest:
        text, whole = _fitting_conversation(prompt, tokenizer)
    else:
        text = render(prompt, tokenizer)
        whole = tokenizer.encode(text)
    if not whole:
        # A model cannot start from nothing; a lone BOS or space is what the reference's engine reads then.
        whole = tokenizer.encode(" ")
    if len(whole) < prompt.context:
        return PromptTokens(text, whole, whole)
    if not prompt.shift:
        raise PromptTooLong
    return PromptTokens(text, whole, _without_middle(whole, prompt))


def _body(prompt: Prompt, messages: tuple[Message, ...], tokenizer: Tokenizer) -> str:
    if prompt.style == "raw":
        return prompt.text
    if prompt.template is None:
        return _by_own_template(prompt, messages, tokenizer)
    tools = list(prompt.tools)
    if speaks_harmony(prompt.template):
        names = LegalNames.of(tools)
        messages, tools = names.in_messages(messages), names.in_tools(tools)
    try:
        template = parsed(prompt.template)
        if prompt.style == "fill":
            return render_fill(
                template,
                prompt.text,
                prompt.suffix,
                think=prompt.think,
                think_level=prompt.think_level,
                is_think_set=prompt.think_set,
            )
        return render_messages(
            template,
            messages,
            tools=tools,
            think=prompt.think,
            think_level=prompt.think_level,
            is_think_set=prompt.think_set,
        )
    except TemplateError as error:
        raise TemplateFailed(str(error)) from error


def _by_own_template(prompt: Prompt, messages: tuple[Message, ...], tokenizer: Tokenizer) -> str:
    if prompt.style == "fill":
        layout = fill_format(tokenizer.has_token)
        if layout is None:
            raise Unsupported("this model does not support insert")
        return layout.prompt(prompt.text, prompt.suffix)
    if tokenizer.has_chat_template:
        return render_chat(tokenizer, prompt, messages)
    return render_messages(parsed("{{ .Prompt }}"), messages)


def parsed(text: str) -> Template:
    """The parsed TEMPLATE; those of ordinary length are remembered.

    Raises:
        TemplateError: if it does not parse, or is too long for that.
    """
    return _remembered(text) if len(text) <= LONGEST_REMEMBERED_TEMPLATE else Template.parse(text)


@lru_cache(maxsize=64)
def _remembered(text: str) -> Template:
    return Template.parse(text)


def _fitting_conversation(prompt: Prompt, tokenizer: Tokenizer) -> tuple[str, list[int]]:
    """Drop the oldest turns until the rest fits; system messages and the last message always stay."""
    messages = prompt.messages
    droppable = [at for at, message in enumerate(messages[:-1]) if message.role != "system"]

    def without(count: int) -> tuple[str, list[int]]:
        dropped = set(droppable[:count])
        kept = tuple(message for at, message in enumerate(messages) if at not in dropped)
        text = _body(prompt, kept, tokenizer)
        return text, tokenizer.encode(text)

    text, whole = without(0)
    if len(whole) <= prompt.context or not droppable:
        return text, whole
    # A long conversation is rendered a few times, not once for every message that goes.
    fewest = bisect_left(range(1, len(droppable)), True, key=lambda count: len(without(count)[1]) <= prompt.context)
    return without(1 + fewest)


def _without_middle(ids: list[int], prompt: Prompt) -> list[int]:
    """The first `keep` tokens and the end, so that half of the rest of the context is free for the answer."""
    keep = max(0, min(prompt.keep, prompt.context - 2))
    tail = max(1, (prompt.context - keep) // 2)
    return ids[:keep] + ids[-tail:]
