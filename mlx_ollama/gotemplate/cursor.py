"""A place in the tokens of a template, and the complaints made there."""

from mlx_ollama.gotemplate.errors import TemplateError
from mlx_ollama.gotemplate.lexer import Kind, Token, tokenize


class Cursor:
    def __init__(self, source: str) -> None:
        self._lexer = tokenize(source)
        self._tokens: list[Token] = []
        self._index = 0
        self.action_line = 0
        """The line of the action under way, 0 outside one."""

    def next(self) -> Token:
        token = self.peek()
        self._index += 1
        return token

    def peek(self) -> Token:
        while self._index >= len(self._tokens):
            # Past the end there is only the last token again.
            self._tokens.append(next(self._lexer, None) or self._tokens[-1])
        return self._tokens[self._index]

    def next_after_space(self) -> Token:
        self._skip_space()
        return self.next()

    def peek_after_space(self) -> Token:
        self._skip_space()
        return self.peek()

    def mark(self) -> int:
        return self._index

    def return_to(self, mark: int) -> None:
        self._index = mark

    def expect(self, kind: Kind, context: str) -> Token:
        token = self.next_after_space()
        if token.kind is not kind:
            raise self.unexpected(token, context)
        return token

    def unexpected(self, token: Token, context: str) -> TemplateError:
        if token.kind is not Kind.ERROR:
            return self.error(f"unexpected {token} in {context}")
        if self.action_line in (0, token.line):
            return self.error(token.text)
        started = "started" if token.text.endswith(" action") else "in action started"
        return self.error(f"{token.text} {started} at :{self.action_line}")

    def error(self, complaint: str) -> TemplateError:
        """The complaint with the line that has been read so far."""
        return TemplateError(f"template: :{self._tokens[-1].line}: {complaint}")

    def _skip_space(self) -> None:
        if self.peek().kind is Kind.SPACE:
            self._index += 1
