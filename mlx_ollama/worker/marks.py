"""Where other prompts are likely to part from this one: there a cache that cannot be shortened is remembered."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from mlx_ollama.errors import MlxOllamaError
from mlx_ollama.protocol import Prompt
from mlx_ollama.types import Message
from mlx_ollama.worker.prefixes import common_length
from mlx_ollama.worker.prompt import render
from mlx_ollama.worker.tokenizer import Tokenizer


def marks_of(prompt: Prompt, tokens: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """Places in `tokens`, in rising order: the ends of what is the same in prompts that resemble this one.

    Templates differ too much to look for the ends of messages in them. So prompts that resemble this one are rendered,
    and compared: one that shares its system message and tools, one with another last message, and the next turn of the
    conversation.
    """
    own = np.array(tokens, dtype=np.uint32)
    found = set()
    for messages in _alike(prompt.messages) if prompt.style == "chat" else ():
        # What cannot be rendered nobody will send.
        with suppress(MlxOllamaError):
            other = tokenizer.encode(render(replace(prompt, messages=messages), tokenizer))
            found.add(common_length(own, np.array(other, dtype=np.uint32)))
    return sorted(found - {0})


def _alike(messages: tuple[Message, ...]) -> Iterator[tuple[Message, ...]]:
    first = next((at for at, message in enumerate(messages) if message.role != "system"), None)
    if first is None:
        return
    for at in {first, len(messages) - 1}:
        yield (*messages[:at], _changed(messages[at]), *messages[at + 1 :])
    answered = messages if messages[-1].role == "assistant" else (*messages, Message("assistant", "0"))
    yield (*answered, Message("user", "0"))


def _changed(message: Message) -> Message:
    return replace(message, content="1" if message.content.startswith("0") else "0", tool_calls=())
