"""How a model writes calls, inferred from its Go template (wire-spec 4.4)."""

import re
from collections.abc import Iterator

from mlx_ollama.gotemplate.nodes import Block, Branch, Text
from mlx_ollama.gotemplate.template import Template
from mlx_ollama.gotemplate.walk import blocks_in, operands_in
from mlx_ollama.worker.parse.json_block import JsonBlock

_JSON_MARKS = "[]{}, \t\r\n"
_ROLE = re.compile(r"\bassistant\b(?:<[^<>]*>)?")
_TAG = re.compile(r"<[^<>\"]*>|[^\s<>\"]+")


def block_of(template: Template) -> JsonBlock:
    """The tags around the calls that the template writes; without a tag, JSON at the front of an answer is a call."""
    texts = [_behind_role(text) for text in _texts(_calls_body(template.root) or ())]
    texts = [text for text in texts if text.strip()]
    if not texts:
        return JsonBlock((), leads=True)
    start = texts[0].partition("{")[0].strip()
    # What is left of an array that the template begins belongs to the JSON.
    start = start.removesuffix("[").rstrip() if start != "[" else ""
    ends = tuple(_TAG.findall(texts[-1].rpartition("}")[2].strip(_JSON_MARKS))) if len(texts) > 1 else ()
    return JsonBlock((start,), ends, named=True) if start else JsonBlock((), ends, leads=True)


def _calls_body(block: Block) -> Block | None:
    """What is written where a message has calls."""
    for statement in block:
        if isinstance(statement, Branch) and any(
            operand.names[-1:] == ("ToolCalls",) for operand in operands_in(statement.pipe)
        ):
            return statement.body
        for inner in blocks_in(statement):
            found = _calls_body(inner)
            if found is not None:
                return found
    return None


def _behind_role(text: str) -> str:
    """What the assistant says there: everything behind its name and the tag that may close the name."""
    ends = [found.end() for found in _ROLE.finditer(text)]
    return text[ends[-1] :] if ends else text


def _texts(block: Block) -> Iterator[str]:
    for statement in block:
        if isinstance(statement, Text):
            yield statement.text
        for inner in blocks_in(statement):
            yield from _texts(inner)
