"""What one execution may use: a request can bring its own template, and that must end."""

MAX_STEPS = 1_000_000
"""Statements, commands and rounds of loops: about two seconds, and many times what a long conversation takes."""

MAX_TEXT = 64 * 1024 * 1024
"""Characters written, and read and made by functions, or a template could double a string until the memory is gone."""


class BudgetError(Exception):
    """The budget is used up; the message says which."""


class Budget:
    def __init__(self) -> None:
        self._steps = MAX_STEPS
        self._text = MAX_TEXT

    def take_step(self) -> None:
        """Count a statement, a command or a round of a loop."""
        self._steps -= 1
        if self._steps < 0:
            raise BudgetError(f"exceeded maximum number of steps ({MAX_STEPS})")

    def take_text(self, text: str) -> str:
        """Count the characters of `text`."""
        self._text -= len(text)
        if self._text < 0:
            raise BudgetError(f"exceeded maximum amount of text ({MAX_TEXT})")
        return text
