"""Which parser reads the answer to a prompt (wire-spec 10.5)."""

from collections.abc import Sequence

from mlx_ollama.gotemplate import thinking_tags
from mlx_ollama.models.parsers import PARSERS, NamedParser
from mlx_ollama.protocol import Prompt
from mlx_ollama.thinking import speaks_harmony
from mlx_ollama.worker.legal_names import LegalNames
from mlx_ollama.worker.parse.answer import Answer
from mlx_ollama.worker.parse.calls import Block, Calls
from mlx_ollama.worker.parse.formats import answer_mark, blocks_named, blocks_of, blocks_of_go, meaningless
from mlx_ollama.worker.parse.harmony import Harmony
from mlx_ollama.worker.parse.parser import Gate, Parser, PlainText
from mlx_ollama.worker.parse.thoughts import Thoughts
from mlx_ollama.worker.parse.toolbox import Toolbox
from mlx_ollama.worker.prompt import parsed
from mlx_ollama.worker.tokenizer import Tokenizer


def make_parser(prompt: Prompt, tokenizer: Tokenizer, rendered: str) -> Parser:
    """A fresh parser for one answer; `rendered` is the prompt as the model reads it, which may open the thinking."""
    if prompt.style != "chat":
        return PlainText()
    if named := PARSERS.get(prompt.parser):
        return _by_name(prompt, named, tokenizer, rendered)
    if speaks_harmony(prompt.template if prompt.template is not None else tokenizer.chat_template):
        return _harmony(prompt, rendered)
    if prompt.template is not None:
        return _by_go_template(prompt, prompt.template, rendered)
    if not tokenizer.chat_template:
        return PlainText()
    tags = tokenizer.thinking_tags if prompt.think else None
    bridge = answer_mark(tokenizer, tags[1]) if tags else ""
    return _answer(prompt, rendered, tags, blocks_of(tokenizer), meaningless(tokenizer), bridge=bridge)


def _by_name(prompt: Prompt, named: NamedParser, tokenizer: Tokenizer, rendered: str) -> Parser:
    """What the Modelfile's PARSER says, whatever the template looks like."""
    if named.harmony:
        return _harmony(prompt, rendered)
    tags = named.tags if prompt.think else None
    bridge = answer_mark(tokenizer, tags[1]) if tags else ""
    return _answer(prompt, rendered, tags, blocks_named(named.calls), meaningless(tokenizer), bridge=bridge)


def _harmony(prompt: Prompt, rendered: str) -> Parser:
    return Harmony(Toolbox(prompt.tools), LegalNames.of(prompt.tools), rendered)


def _by_go_template(prompt: Prompt, text: str, rendered: str) -> Parser:
    """The reference's parser for TEMPLATEs: what it withholds it tells of, and it leaves white space before a call."""
    template = parsed(text)
    tags = thinking_tags(template) if prompt.think else None
    blocks = blocks_of_go(template) if prompt.tools else ()
    return _answer(prompt, rendered, tags, blocks, (), is_generic=True)


def _answer(
    prompt: Prompt,
    rendered: str,
    tags: tuple[str, str] | None,
    blocks: Sequence[Block],
    dropped: Sequence[str],
    *,
    is_generic: bool = False,
    bridge: str = "",
) -> Parser:
    thoughts, gate = None, None
    last = prompt.messages[-1] if prompt.messages else None
    # An answer that the caller has begun is past its thinking (wire-spec 10.3).
    if tags and not (last and last.role == "assistant" and last.content):
        opened = rendered.rstrip().endswith(tags[0])
        gate = Gate(tags[1], opening="" if opened else tags[0], bridge=bridge)
        thoughts = Thoughts(*tags, opened=opened, trims=not is_generic)
    calls = None
    if prompt.tools or dropped:
        used = blocks if prompt.tools else ()
        calls = Calls(used, Toolbox(prompt.tools), trims=not is_generic, dropped=dropped)
    if not thoughts and not calls:
        return PlainText()
    return Answer(thoughts, calls, tells=is_generic, gate=gate)
