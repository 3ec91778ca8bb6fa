"""What takes longer than a step is made ready beside the answers under way, whatever it is that makes it long."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlx_ollama.protocol import Prompt
from mlx_ollama.types import Message, ToolCall
from mlx_ollama.worker.load import load
from mlx_ollama.worker.preparing import LONG_CHARACTERS, Preparing
from mlx_ollama.worker.tokenizer import Tokenizer
from tests.worker.test_engine import submit

LONG = "bada " * (LONG_CHARACTERS // 5 + 1)
WRITTEN = Message("assistant", "", tool_calls=(ToolCall("write", {"text": LONG}),))


@pytest.mark.parametrize(
    ("changes", "is_long"),
    [
        ({"text": "bada"}, False),
        ({"text": LONG}, True),
        ({"style": "chat", "messages": (Message("user", LONG),)}, True),
        ({"style": "chat", "template": "{{ .Prompt }}" + LONG, "messages": (Message("user", "bada"),)}, True),
        ({"style": "chat", "template": "{{ .ToolCalls }}", "messages": (WRITTEN,)}, True),
    ],
    ids=["short", "text", "message", "template", "arguments"],
)
def test_what_is_long_does_not_hold_up_the_rest(tiny_directory: Path, changes: dict[str, Any], is_long: bool) -> None:
    loaded = load(tiny_directory, device="cpu")
    preparing = Preparing(Tokenizer(loaded.tokenizer), needs_marks=False, clock=lambda: 0)
    frame = submit(1, "", context=1 << 20)
    frame = replace(frame, prompt=replace(frame.prompt, **changes))
    assert isinstance(frame.prompt, Prompt)
    begun = preparing.begin(frame)
    assert (begun is None) == is_long
    ((request, prepared),) = [begun] if begun else preparing.done(within=30)
    assert request == 1
    assert prepared()
