"""Modelfiles, by wire-spec 12.1; what it leaves open was asked of the reference's own parser."""

import string
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_ollama.errors import InvalidRequest
from mlx_ollama.models.modelfile import BLANKS, NEWLINES, Statement, modelfile_text, statements_text
from mlx_ollama.models.modelfile_parser import INSTRUCTIONS, ROLES, InvalidModelfile, Modelfile, decoded
from mlx_ollama.models.names import ModelName
from mlx_ollama.types import Message

COMMANDS = (
    'command must be one of "from", "license", "template", "system", "adapter", "draft", "renderer", "parser", '
    '"parameter", "message", or "requires"'
)


def values(text: str) -> list[str]:
    return [statement.value for statement in Modelfile.parse("FROM a\n" + text).statements[1:]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SYSTEM a b  ", ["a b"]),
        ("sYsTem \t a", ["a"]),
        ("SYSTEM\ta\tb", ["a\tb"]),
        ("  SYSTEM a\n\n\t# note\n  #\nPARSER b", ["a", "b"]),
        ("SYSTEM a # no comment", ["a # no comment"]),
        ("SYSTEM #a", ["#a"]),
        ('SYSTEM "a b" \t\nPARSER x', ["a b", "x"]),
        ('SYSTEM "two\n  lines "', ["two\n  lines "]),
        ('SYSTEM """\na "b"\n"""\nPARSER x', ['\na "b"\n', "x"]),
        ('SYSTEM """a"""b"""', ['a"""b']),
        ('SYSTEM "a"b"', ['a"b']),
        ('SYSTEM """"\nx"""', ['"\nx']),
        ('SYSTEM "\nb"', ["\nb"]),
        ('SYSTEM ""', [""]),
        ('SYSTEM """"""', [""]),
        ("SYSTEM \nPARSER x", ["", "x"]),
        ("SYSTEM 'a'", ["'a'"]),
        (r"SYSTEM a\nb", [r"a\nb"]),
        ('SYSTEM a"b', ['a"b']),
        ("SYSTEM a\r\nPARSER b\rADAPTER c", ["a", "b", "c"]),
        ('SYSTEM "a\r\nb"', ["a\r\nb"]),
        ("SYSTEM a\x07b\u200bc\u00a0d", ["abcd"]),
        ("SYSTEM \u00e9\U0001f600", ["\u00e9\U0001f600"]),
        ("\u00a0\u200bSYSTEM a", ["a"]),
        ('PARAMETER num_ctx  "5" ', ["5"]),
        ("PARAMETER  stop a b", ["a b"]),
        ('MESSAGE user "hi\nthere"', ["hi\nthere"]),
        ("MESSAGE assistant ", [""]),
    ],
)
def test_values(text: str, expected: list[str]) -> None:
    assert values(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no FROM line"),
        ("# FROM a", "no FROM line"),
        ("SYSTEM a", "no FROM line"),
        ("FROM a\n\nNOPE b", f"(line 3): {COMMANDS}"),
        ("FROM a\r\nNOPE b", f"(line 2): {COMMANDS}"),
        ("FROM a\nSYSTEM: b", f"(line 2): {COMMANDS}"),
        ('FROM a\nSYSTEM "1\n2"\nFROMAGE', f"(line 4): {COMMANDS}"),
        ("FROM a\nSYSTEM\nPARSER x", "(line 2): SYSTEM has no value"),
        ("FROM", "(line 1): FROM has no value"),
        ('FROM a\nSYSTEM "b', "unexpected EOF"),
        ('FROM a\nSYSTEM """b"\n""', "unexpected EOF"),
        ('FROM a\nSYSTEM "a" b', "unexpected EOF"),
        ('FROM a\nSYSTEM """', "unexpected EOF"),
        ("FROM a\nMESSAGE tool b", '(line 2): message role must be one of "system", "user", or "assistant"'),
        ("FROM a\nMESSAGE User b", '(line 2): message role must be one of "system", "user", or "assistant"'),
        ("FROM a\nMESSAGE user", "(line 2): MESSAGE needs a role and a value"),
        ("FROM a\nPARAMETER seed", "(line 2): PARAMETER needs a name and a value"),
        ("FROM a\nPARAMETER num-ctx 5", "(line 2): PARAMETER needs a name and a value"),
        ("FROM a\nREQUIRES x", "requires must be a valid semver (e.g. 0.14.0)"),
        ("FROM a\nREQUIRES 1.2.3.4", "requires must be a valid semver (e.g. 0.14.0)"),
    ],
)
def test_what_is_no_modelfile(text: str, message: str) -> None:
    with pytest.raises(InvalidModelfile) as caught:
        Modelfile.parse(text)
    assert str(caught.value) == message
    assert isinstance(caught.value, InvalidRequest)


@pytest.mark.parametrize("version", ["1", "0.14", "v1.2.3", "0.14.0", "1.2.3-rc1", "1.0.0-a.b+c"])
def test_versions(version: str) -> None:
    assert Modelfile.parse(f"FROM a\nREQUIRES {version}").last("requires") == version


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_byte_order_marks(encoding: str) -> None:
    text = "FROM a\nSYSTEM é\n"
    assert decoded(text.encode(encoding)) == text
    assert decoded(b"\xfe\xff" + text.encode("utf-16-be")) == text
    assert decoded(b"FROM \xff") == "FROM �"


def test_repeats() -> None:
    modelfile = Modelfile.parse(
        "FROM a\nFROM b\nSYSTEM one\nSYSTEM two\nLICENSE x\nLICENSE y\nPARAMETER stop a\nPARAMETER stop b\n"
        "PARAMETER top_k 1\nMESSAGE user hi\nMESSAGE assistant hello"
    )
    assert modelfile.all("from") == ("a", "b")
    assert modelfile.last("system") == "two"
    assert modelfile.last("template") == ""
    assert modelfile.all("license") == ("x", "y")
    assert modelfile.parameters == (("stop", "a"), ("stop", "b"), ("top_k", "1"))
    assert modelfile.messages == (Message("user", "hi"), Message("assistant", "hello"))


def test_a_long_value_takes_linear_time() -> None:
    text = '"""' + "word\n" * 300_000 + '"""'
    (value,) = values(f"LICENSE {text}")
    assert len(value) == 1_500_000


printed = st.characters(exclude_categories=("C", "Z")) | st.sampled_from(' "\t\n')
"""What a Modelfile can hold."""


def _has_a_form(value: str) -> bool:
    """All but the values that `statements_text` says do not come back."""
    whole = value.strip(BLANKS)
    in_quotes = len(whole) > 1 and whole[0] == whole[-1] == '"' and not any(newline in value for newline in NEWLINES)
    lines = value.splitlines()
    return not (in_quotes or any(line.rstrip(BLANKS).endswith('"""') for line in lines[:-1]))


texts = st.text(printed, max_size=40).filter(_has_a_form)
statements = st.one_of(
    st.builds(
        Statement, st.sampled_from([word for word in INSTRUCTIONS[:-1] if word not in ("parameter", "message")]), texts
    ),
    st.builds(Statement, st.just("parameter"), texts, st.text(string.ascii_letters + "_", min_size=1, max_size=9)),
    st.builds(Statement, st.just("message"), texts, st.sampled_from(ROLES)),
)


@given(st.lists(statements, max_size=8))
def test_what_is_printed_is_read_again(made: list[Statement]) -> None:
    whole = [Statement("from", "a"), *made]
    assert list(Modelfile.parse(statements_text(whole)).statements) == whole


@given(
    texts.filter(bool),
    texts,
    st.lists(st.tuples(st.sampled_from(ROLES), texts), max_size=3),
    st.lists(texts, max_size=3),
)
def test_what_show_prints_is_read_again(
    template: str, system: str, turns: list[tuple[str, str]], stops: list[str]
) -> None:
    messages = [Message(role, text) for role, text in turns]
    text = modelfile_text(
        ModelName.parse("m"),
        "/weights/x",
        template=template,
        system=system,
        parameters={"stop": stops, "top_p": 0.5},
        licenses=["MIT"],
        messages=messages,
    )
    modelfile = Modelfile.parse(text)
    assert modelfile.all("from") == ("/weights/x",)
    assert (modelfile.last("template"), modelfile.last("system")) == (template, system)
    assert modelfile.parameters == (*(("stop", stop) for stop in stops), ("top_p", "0.5"))
    assert modelfile.messages == tuple(messages)
    assert modelfile.all("license") == ("MIT",)


@given(st.text(st.sampled_from(' "\t\r\n#aé\x07\u200b') | st.characters(), max_size=60), st.sampled_from(INSTRUCTIONS))
def test_any_text_is_read_or_refused(text: str, instruction: str) -> None:
    for whole in (text, f"FROM a\n{instruction} {text}"):
        with suppress(InvalidModelfile):
            modelfile = Modelfile.parse(whole)
            assert modelfile.all("from")
            kept = {character for statement in modelfile.statements for character in statement.value}
            assert all(character.isprintable() or character in BLANKS for character in kept)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_text(raw: bytes) -> None:
    assert isinstance(decoded(raw), str)
