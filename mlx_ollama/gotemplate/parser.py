"""Tokens to a syntax tree (wire-spec 12.2), with Go's complaints about what is not one."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from mlx_ollama.gotemplate.cursor import Cursor
from mlx_ollama.gotemplate.gostring import quote, unquote
from mlx_ollama.gotemplate.lexer import Kind, Token
from mlx_ollama.gotemplate.nodes import Action, Block, Branch, BranchKeyword, Call, Jump, Statement, Text
from mlx_ollama.gotemplate.pipelines import PipelineParser

_SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class _End:
    """`{{end}}` or `{{else}}`, which close a block."""

    keyword: str

    def __str__(self) -> str:
        return f"{{{{{self.keyword}}}}}"


def parse(source: str, known_functions: AbstractSet[str]) -> dict[str, Block]:
    """The templates of `source` by name; what stands outside every `define` has the empty name.

    Raises:
        TemplateError: with Go's message, `template: :LINE: …`.
    """
    return _Parser(source, known_functions).parse()


class _Parser:
    def __init__(self, source: str, known_functions: AbstractSet[str]) -> None:
        self._cursor = Cursor(source)
        self._pipelines = PipelineParser(self._cursor, known_functions)
        self._templates: dict[str, Block] = {}
        self._range_depth = 0

    def parse(self) -> dict[str, Block]:
        statements: list[Statement] = []
        while self._cursor.peek().kind is not Kind.EOF:
            if self._skip_start_of_define():
                self._define()
                continue
            statement = self._statement()
            if isinstance(statement, _End):
                raise self._cursor.error(f"unexpected {statement}")
            statements.append(statement)
        self._add("", tuple(statements))
        return self._templates

    def _skip_start_of_define(self) -> bool:
        start = self._cursor.mark()
        is_define = self._cursor.next().kind is Kind.OPENING and _is_keyword(self._cursor.next_after_space(), "define")
        if not is_define:
            self._cursor.return_to(start)
        return is_define

    def _define(self) -> None:
        name = self._template_name("define clause")
        self._cursor.expect(Kind.CLOSING, "define clause")
        if self._template(name).keyword != "end":
            raise self._cursor.error("unexpected {{else}} in define clause")

    def _template(self, name: str) -> _End:
        outer_depth, self._range_depth = self._range_depth, 0
        with self._pipelines.fresh_scope():
            block, end = self._block()
        self._range_depth = outer_depth
        if end.keyword == "end":
            self._add(name, block)
        return end

    def _add(self, name: str, block: Block) -> None:
        previous = self._templates.get(name)
        if previous is None or _is_blank(previous):
            self._templates[name] = block
        elif not _is_blank(block):
            raise self._cursor.error(f"template: multiple definition of template {quote(name)}")

    def _template_name(self, context: str) -> str:
        token = self._cursor.expect(Kind.STRING, context)
        try:
            return unquote(token.text)
        except ValueError as error:
            raise self._cursor.error(str(error)) from error

    def _block(self) -> tuple[Block, _End]:
        statements: list[Statement] = []
        while self._cursor.peek_after_space().kind is not Kind.EOF:
            statement = self._statement()
            if isinstance(statement, _End):
                return tuple(statements), statement
            statements.append(statement)
        raise self._cursor.error("unexpected EOF")

    def _statement(self) -> Statement | _End:
        token = self._cursor.next_after_space()
        if token.kind is Kind.TEXT:
            return Text(token.text)
        if token.kind is not Kind.OPENING:
            raise self._cursor.unexpected(token, "input")
        self._cursor.action_line = token.line
        statement = self._action()
        self._cursor.action_line = 0
        return statement

    def _action(self) -> Statement | _End:
        start = self._cursor.mark()
        token = self._cursor.next_after_space()
        match token.text if token.kind is Kind.KEYWORD else "":
            case "if" | "with" | "range" as keyword:
                return self._branch(keyword)
            case "else":
                return self._else()
            case "end":
                self._cursor.expect(Kind.CLOSING, "end")
                return _End("end")
            case "template":
                return self._call()
            case "block":
                return self._block_clause()
            case "break" | "continue" as keyword:
                return self._jump(keyword)
        self._cursor.return_to(start)
        return Action(self._pipelines.pipe("command"))

    def _branch(self, keyword: BranchKeyword) -> Branch:
        with self._pipelines.scope():
            pipe = self._pipelines.pipe(keyword)
            self._range_depth += keyword == "range"
            body, end = self._block()
            self._range_depth -= keyword == "range"
            otherwise = None if end.keyword == "end" else self._otherwise(keyword)
        return Branch(keyword, pipe, body, otherwise)

    def _otherwise(self, keyword: BranchKeyword) -> Block:
        if keyword != "range" and _is_keyword(self._cursor.peek(), keyword):
            self._cursor.next()
            return (self._branch(keyword),)
        block, end = self._block()
        if end.keyword != "end":
            raise self._cursor.error(f"expected end; found {end}")
        return block

    def _else(self) -> _End:
        following = self._cursor.peek_after_space()
        # `else if` and `else with` go on as if a new action began.
        if not (_is_keyword(following, "if") or _is_keyword(following, "with")):
            self._cursor.expect(Kind.CLOSING, "else")
        return _End("else")

    def _call(self) -> Call:
        token = self._cursor.peek_after_space()
        name = self._template_name("template clause")
        if self._cursor.peek_after_space().kind is Kind.CLOSING:
            self._cursor.next()
            return Call(token.position, name, None)
        return Call(token.position, name, self._pipelines.pipe("template clause"))

    def _block_clause(self) -> Call:
        token = self._cursor.peek_after_space()
        name = self._template_name("block clause")
        pipe = self._pipelines.pipe("block clause")
        unexpected_else = self._cursor.error("unexpected {{else}} in block clause")
        if self._template(name).keyword != "end":
            # Go names the line of the clause here, not that of the {{else}}.
            raise unexpected_else
        return Call(token.position, name, pipe)

    def _jump(self, keyword: str) -> Jump:
        token = self._cursor.next_after_space()
        if token.kind is not Kind.CLOSING:
            raise self._cursor.unexpected(token, f"{{{{{keyword}}}}}")
        if not self._range_depth:
            raise self._cursor.error(f"{{{{{keyword}}}}} outside {{{{range}}}}")
        return Jump("break" if keyword == "break" else "continue")


def _is_keyword(token: Token, keyword: str) -> bool:
    return token.kind is Kind.KEYWORD and token.text == keyword


def _is_blank(block: Block) -> bool:
    return all(isinstance(statement, Text) and not statement.text.strip(_SPACE) for statement in block)
