"""`python -m tests.faults.fuzz FOLDER -runs=N`: atheris looks for bodies and frames that no decoder was made for.

What it has found, and begins with, is in the folder.
"""

import json
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mlx_ollama"]):
    from tests.faults.decoding import NAMES, decode, receive


def _try(data: bytes) -> None:
    if not data:
        return
    decoder = data[0] % (len(NAMES) + 1)
    if decoder == len(NAMES):
        receive(data[1:])
    else:
        decode(NAMES[decoder], data[1:])


BODY = {
    "model": "m",
    "prompt": "x",
    "input": "x",
    "messages": [
        {
            "role": "user",
            "content": [{"type": "text", "text": "x"}],
            "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}],
        }
    ],
    "options": {"stop": ["x"], "num_ctx": 4},
    "format": "json",
    "stream": False,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "max_tokens": 3,
}
FRAME = b"\0\0\0\x0b[5,[[1,2]]]"


def _seed(folder: Path) -> None:
    """Something for each decoder to begin with: from nothing it would not come upon JSON in a million tries."""
    for number in range(len(NAMES)):
        (folder / str(number)).write_bytes(bytes([number]) + json.dumps(BODY).encode())
    (folder / "frame").write_bytes(bytes([len(NAMES)]) + FRAME)


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        if not folder.startswith("-"):
            _seed(Path(folder))
    atheris.Setup(sys.argv, _try)
    atheris.Fuzz()
