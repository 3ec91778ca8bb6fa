"""What one execution may use: a request can bring its own template, and that must end."""

MAX_STEPS = 1_000_000
"""Statements, commands, rounds of loops and verbs of `printf`: about two seconds, and many times what a long
conversation takes."""

MAX_TEXT = 64 * 1024 * 1024
"""Characters written, and read and made by functions, or a template could double a string until the memory is gone."""


ROOM_OF_ELEMENT = 32
"""Characters that an element of a list or map counts for besides its text where all of them are gone through."""


class BudgetError(Exception):
    """The budget is used up; the message says which."""


class Budget:
    def __init__(self) -> None:
        self._steps = MAX_STEPS
        self._text = MAX_TEXT

    def take_step(self, steps: int = 1) -> None:
        """Count a statement, a command, a round of a loop or a verb."""
        self._steps -= steps
        if self._steps < 0:
            raise BudgetError(f"exceeded maximum number of steps ({MAX_STEPS})")

    def take_text(self, text: str) -> str:
        """Count the characters of `text`."""
        self.take_room(len(text))
        return text

    def take_room(self, characters: int) -> None:
        """Count text that is still to be made, or what takes as much time or memory."""
        self._text -= characters
        if self._text < 0:
            raise BudgetError(f"exceeded maximum amount of text ({MAX_TEXT})")
