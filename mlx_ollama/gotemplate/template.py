"""A parsed template."""

from collections.abc import Callable, Mapping
from datetime import date
from functools import cached_property
from typing import Self

from mlx_ollama.gotemplate import execute, functions
from mlx_ollama.gotemplate.budget import Budget, BudgetError
from mlx_ollama.gotemplate.errors import TemplateError
from mlx_ollama.gotemplate.nodes import Block
from mlx_ollama.gotemplate.parser import parse
from mlx_ollama.gotemplate.walk import names_in

LONGEST = 1 << 20
"""Characters. A request brings its own template, as whoever makes a model does, and parsed it takes hundreds of times
its length."""


class Template:
    """The text of a model's TEMPLATE, ready to render (wire-spec 12.2)."""

    def __init__(self, text: str, templates: Mapping[str, Block]) -> None:
        self.text = text
        self._templates = templates

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `text`.

        Raises:
            TemplateError: with Go's message, `template: :LINE: …`, or for a text that is too long.
        """
        if len(text) > LONGEST:
            raise TemplateError(f"template of {len(text)} characters: {LONGEST} are the most")
        try:
            return cls(text, parse(text, functions.NAMES))
        except RecursionError as error:
            raise TemplateError("template: :1: max expression depth exceeded") from error

    def render(
        self,
        data: Mapping[str, object],
        *,
        today: Callable[[], date] = date.today,
        budget: Budget | None = None,
    ) -> str:
        """The text this template makes of `data`; `budget` is for those that render more than once for one request.

        Raises:
            TemplateError: with Go's message, `template: :LINE:COLUMN: executing "" at <…>: …`.
        """
        try:
            return execute.execute(self.text, self._templates, functions.functions(today), data, budget or Budget())
        except BudgetError as error:
            raise TemplateError(f"template: : {error}") from error
        except RecursionError as error:
            raise TemplateError(f"template: : exceeded maximum template depth ({execute.MAX_DEPTH})") from error

    @cached_property
    def variables(self) -> frozenset[str]:
        """Every field and variable the template refers to, in lower case: this decides how it is used (10.2)."""
        return frozenset(name.lower() for block in self._templates.values() for name in names_in(block))

    @property
    def root(self) -> Block:
        """The statements outside every `define`."""
        return self._templates[""]

    def with_root(self, root: Block) -> Self:
        """A copy with other statements outside its `define`s."""
        return type(self)(self.text, {**self._templates, "": root})
