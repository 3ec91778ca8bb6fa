"""Names of tools as models of the gpt-oss family can write them: letters, digits and `_` (wire-spec 10.3)."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from mlx_ollama.types import Message

_ILLEGAL = re.compile(r"[^0-9A-Za-z_]")


class LegalNames:
    """Makes names legal, no two the same, and finds the real ones again."""

    def __init__(self, names: Iterable[str]) -> None:
        self._legal: dict[str, str] = {}
        self._real: dict[str, str] = {}
        numbers: defaultdict[str, Iterator[int]] = defaultdict(lambda: count(2))
        for name in dict.fromkeys(names):
            wanted = _ILLEGAL.sub("_", name)
            legal = wanted = f"_{wanted}" if wanted[:1].isdigit() else wanted or "_"
            while legal in self._real:
                legal = f"{wanted}_{next(numbers[wanted])}"
            self._legal[name], self._real[legal] = legal, name

    @classmethod
    def of(cls, tools: Sequence[Mapping[str, Any]]) -> "LegalNames":
        """For the tools of a request."""
        functions = [tool["function"] for tool in tools if isinstance(tool.get("function"), Mapping)]
        return cls(str(function.get("name", "")) for function in functions)

    def restored(self, legal: str) -> str:
        """The real name; a name that was never made legal is its own."""
        return self._real.get(legal, legal)

    def in_tools(self, tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [self._renamed(tool) for tool in tools]

    def in_messages(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        return tuple(
            replace(
                message,
                tool_name=self._of(message.tool_name),
                tool_calls=tuple(replace(call, name=self._of(call.name)) for call in message.tool_calls),
            )
            for message in messages
        )

    def _of(self, name: str) -> str:
        return self._legal.get(name, _ILLEGAL.sub("_", name))

    def _renamed(self, tool: Mapping[str, Any]) -> dict[str, Any]:
        function = tool.get("function")
        if not isinstance(function, Mapping):
            return dict(tool)
        return {**tool, "function": {**function, "name": self._of(str(function.get("name", "")))}}
