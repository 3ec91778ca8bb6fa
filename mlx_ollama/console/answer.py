"""An answer on its way to the screen: thinking set apart, words kept whole, figures at the end."""

from collections.abc import Mapping
from typing import Any, TextIO

from mlx_ollama.console.harmless import harmless
from mlx_ollama.console.human import duration
from mlx_ollama.console.wordwrap import WordWrap

_GREY, _BOLD, _PLAIN = "\x1b[38;5;245m", "\x1b[1m", "\x1b[0m"
_NS = 1_000_000_000


class AnswerWriter:
    """Writes one answer to `stream`. `width` in columns wraps its words, None leaves lines as the model makes them."""

    def __init__(self, stream: TextIO, *, width: int | None, hide_thinking: bool) -> None:
        self._stream = stream
        self._coloured = stream.isatty()
        self._width = width
        self._wrap = WordWrap(width) if width else None
        self._hide_thinking = hide_thinking
        self._thinking = ""
        self.text = ""

    def think(self, text: str) -> None:
        """A piece of what the model tells itself."""
        text = harmless(text, self._stream)
        if not text or self._hide_thinking:
            return
        if not self._thinking:
            text = text.lstrip()
            self._write(self._dressed(_GREY + _BOLD, "Thinking...\n") + self._mark(_GREY))
        self._thinking += text
        self._write(self._wrapped(text))

    def say(self, text: str) -> None:
        """A piece of what the user reads."""
        text = harmless(text, self._stream)
        if not text:
            return
        self._end_thinking()
        self.text += text
        self._write(self._wrapped(text))

    def call(self, calls: list[Mapping[str, Any]]) -> None:
        """Tools that the model wants called; nobody calls them here."""
        for call in calls:
            function = call.get("function", {})
            arguments = ", ".join(f"{name}={value!r}" for name, value in (function.get("arguments") or {}).items())
            self.say(f"{function.get('name', '')}({arguments})\n")

    def end(self) -> None:
        """The end of the answer, or of what there is of it."""
        self._end_thinking()
        self._write("\n\n" if self.text else "\n")

    def _end_thinking(self) -> None:
        if not self._thinking:
            return
        newline = "" if self._thinking.endswith("\n") else "\n"
        self._write(newline + self._dressed(_GREY + _BOLD, "...done thinking.\n\n"))
        self._thinking = ""
        self._wrap = WordWrap(self._width) if self._width else None

    def _wrapped(self, text: str) -> str:
        return self._wrap.feed(text) if self._wrap else text

    def _dressed(self, codes: str, text: str) -> str:
        return f"{self._mark(codes)}{text}{self._mark(_PLAIN)}"

    def _mark(self, codes: str) -> str:
        return codes if self._coloured else ""

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def timings(last: Mapping[str, Any]) -> str:
    """What the last line of an answer tells of its time and tokens; a line each, nothing where nothing was counted."""
    rows = (
        ("total duration", _duration(last, "total_duration")),
        ("load duration", _duration(last, "load_duration")),
        ("prompt eval count", _count(last, "prompt_eval_count")),
        ("prompt eval duration", _duration(last, "prompt_eval_duration")),
        ("prompt eval rate", _rate(last, "prompt_eval")),
        ("eval count", _count(last, "eval_count")),
        ("eval duration", _duration(last, "eval_duration")),
        ("eval rate", _rate(last, "eval")),
    )
    return "".join(f"{name + ':':<21} {value}\n" for name, value in rows if value)


def _duration(last: Mapping[str, Any], name: str) -> str:
    return duration(last[name]) if last.get(name) else ""


def _count(last: Mapping[str, Any], name: str) -> str:
    return f"{last[name]} token(s)" if last.get(name) else ""


def _rate(last: Mapping[str, Any], name: str) -> str:
    count, spent = last.get(f"{name}_count"), last.get(f"{name}_duration")
    return f"{count / spent * _NS:.2f} tokens/s" if count and spent else ""
