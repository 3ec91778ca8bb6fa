"""Answers of the gpt-oss family: messages on channels (wire-spec 10.3).

<|start|>assistant<|channel|>analysis<|message|>what it thinks<|end|>
<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a":1}<|call|>
<|start|>assistant<|channel|>final<|message|>what it answers<|return|>
"""

import re

from mlx_ollama.worker.legal_names import LegalNames
from mlx_ollama.worker.parse.parser import Gate, Parsed
from mlx_ollama.worker.parse.tags import TagSearch, leading
from mlx_ollama.worker.parse.toolbox import Toolbox

START, MESSAGE = "<|start|>", "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_HEADER_FRONTS = ("<|channel|>", "<|constrain|>", MESSAGE, START, "to=")
_ROLE = "assistant"
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_LONGEST_HEADER = 512


class Harmony:
    """One answer on channels. `rendered` is the prompt, which ends inside a message of the assistant's."""

    def __init__(self, toolbox: Toolbox, names: LegalNames, rendered: str) -> None:
        self._toolbox = toolbox
        self._names = names
        self._header: str | None = ""
        self._body = TagSearch((*_ENDS, START), trims=False)
        self._channel = ""
        self._recipient = ""
        self._call = ""
        self._parsed = Parsed()
        if (at := rendered.rfind(START)) >= 0:
            self.add(rendered[at:])
            self._body.flush()
        # The model may name the kind of its answer after the channel (`<|constrain|>json`): the bridge cuts that short.
        self.gate = Gate("<|channel|>final", bridge="<|message|>") if self._channel != "final" else None

    def add(self, text: str) -> Parsed | None:
        while text:
            text = self._read_body(text) if self._header is None else self._read_header(self._header + text)
        return self._take()

    def flush(self) -> Parsed | None:
        if self._header is not None:
            rest, self._header = _without_start(self._header), ""
            if "to=" in rest or not rest.lstrip().startswith("<|"):
                self._parsed += Parsed(rest)
        else:
            self._give(self._body.flush())
            self._end_message("")
        return self._take()

    def _read_header(self, header: str) -> str:
        """Everything up to `<|message|>`; text where a header should be is the answer."""
        front, tag, rest = header.partition(MESSAGE)
        if len(front) > _LONGEST_HEADER + (0 if tag else len(MESSAGE)) or not _may_be_header(header):
            self._header, self._channel, self._recipient = None, "final", ""
            return _without_start(header)
        if not tag:
            self._header = header
            return ""
        found, recipient = _CHANNEL.search(front), _RECIPIENT.search(front)
        self._header, self._channel = None, found[1] if found else "final"
        self._recipient = recipient[1] if recipient else ""
        self._call = _without_start(front) + tag
        return rest

    def _read_body(self, text: str) -> str:
        found = self._body.add(text)
        self._give(found.before)
        if not found.tag:
            return ""
        self._end_message("" if found.tag == START else found.tag)
        self._header = START if found.tag == START else ""
        return found.rest

    def _give(self, text: str) -> None:
        if self._recipient:
            self._call += text
        elif self._channel == "analysis":
            self._parsed += Parsed(thinking=text)
        else:
            self._parsed += Parsed(text)

    def _end_message(self, tag: str) -> None:
        """A message to a tool becomes a call, or comes back as it was written."""
        if not self._recipient:
            return
        call = self._toolbox.call(
            self._names.restored(self._recipient.removeprefix("functions.")),
            self._call.partition(MESSAGE)[2].strip(),
        )
        if call:
            self._parsed += Parsed(calls=(call,))
        else:
            self._parsed += Parsed(self._call + tag)
        self._recipient = ""

    def _take(self) -> Parsed | None:
        parsed, self._parsed = self._parsed, Parsed()
        return parsed if parsed != Parsed() else None


def _may_be_header(text: str) -> bool:
    bare = _without_start(text).lstrip()
    is_role = text.startswith(START) and _ROLE.startswith(bare)
    return is_role or leading(bare, _HEADER_FRONTS) is not None


def _without_start(header: str) -> str:
    return header.removeprefix(START).removeprefix(_ROLE) if header.startswith(START) else header
