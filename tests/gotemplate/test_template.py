import time
import tracemalloc
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from mlx_ollama.gotemplate import Template, TemplateError, render_messages, thinking_tags
from mlx_ollama.gotemplate.budget import MAX_TEXT, Budget
from mlx_ollama.gotemplate.values import Table
from mlx_ollama.types import Message, ToolCall

TEMPLATES = Path(__file__).parent / "templates"


def test_variables_are_all_names_in_lower_case() -> None:
    template = Template.parse(
        '{{ range $i, $m := .Messages }}{{ $.System }}{{ if (eq .Role "x") }}{{ $m.Content }}{{ end }}{{ end }}'
        '{{ define "t" }}{{ .Suffix }}{{ (index .Tools 0).Name }}{{ end }}{{ template "t" .Prompt }}',
    )
    assert template.variables == {
        *("$", "$m", "messages", "system", "role", "content", "suffix", "tools", "name", "prompt"),
    }


def test_the_text_is_kept() -> None:
    assert Template.parse("a {{- .B }}").text == "a {{- .B }}"


def test_dates_come_from_the_clock_given() -> None:
    template = Template.parse('{{ currentDate "ignored" }} {{ yesterdayDate }}')
    assert template.render({}, today=lambda: date(2024, 3, 1)) == "2024-03-01 2024-02-29"


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("qwen3", ("<think>", "</think>")),
        ("deepseek-r1", ("<think>", "</think>")),
        ("qwen2.5", None),
        ("chatml-turns", None),
    ],
)
def test_thinking_tags_of_families(name: str, tags: tuple[str, str] | None) -> None:
    assert thinking_tags(Template.parse((TEMPLATES / f"{name}.gotmpl").read_text())) == tags


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("{{ range .Messages }}{{ if .Thinking }} [a] {{ .Thinking }} [b]\n{{ end }}{{ end }}", ("[a]", "[b]")),
        ("{{ range .Messages }}<a>{{ .Thinking }}<b>{{ end }}", ("<a>", "<b>")),
        ("{{ range $i, $m := .Messages }}<a>{{ .Thinking }}<b>{{ end }}", ("<a>", "<b>")),
        ("{{ range .Messages }}{{ with .Thinking }}{{ else }}<a>{{ .Thinking }}<b>{{ end }}{{ end }}", ("<a>", "<b>")),
        ("<a>{{ .Thinking }}<b>", None),
        ("{{ range .Others }}<a>{{ .Thinking }}<b>{{ end }}", None),
        ("{{ range .Messages }}{{ range .Parts }}<a>{{ .Thinking }}<b>{{ end }}{{ end }}", None),
        ("{{ range .Messages }}<a>{{ .Thinking }}{{ end }}", None),
        ("{{ range .Messages }}{{ .Thinking }}<b>{{ end }}", None),
        ("{{ range .Messages }}{{ .Content }}{{ end }}", None),
    ],
)
def test_thinking_tags(text: str, tags: tuple[str, str] | None) -> None:
    assert thinking_tags(Template.parse(text)) == tags


@pytest.mark.parametrize(
    "text",
    [
        "{{ if .A }}" * 1000 + "x" + "{{ end }}" * 1000,
        "{{ " + "(" * 1000 + "1" + ")" * 1000 + " }}",
        "{{ if .A }}x" + "{{ else if .A }}y" * 1000 + "{{ end }}",
        "{{ range .A }}" * 200 + "{{ (" * 50,
    ],
)
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(TemplateError, match="max expression depth exceeded"):
        Template.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        '{{ define "t" }}{{ template "t" . }}{{ end }}{{ template "t" . }}',
        '{{ define "t" }}{{ range 1 }}{{ template "t" (print (print .)) }}{{ end }}{{ end }}{{ template "t" }}',
        '{{ define "a" }}{{ template "b" }}{{ end }}{{ define "b" }}{{ template "a" }}{{ end }}{{ template "a" }}',
    ],
)
def test_endless_recursion_is_refused(text: str) -> None:
    with pytest.raises(TemplateError, match="exceeded maximum template depth"):
        Template.parse(text).render({})


def test_the_deepest_template_that_parses_runs() -> None:
    text = "{{ range 1 }}" * 50 + "{{ " + "(" * 50 + "print ." + ")" * 50 + " }}" + "{{ end }}" * 50
    assert Template.parse(text).render({}) == "0"
    text = "{{ " + "print (" * 100 + "1" + ")" * 100 + " }}"
    assert Template.parse(text).render({}) == "1"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{{ range 100 }}{{ printf "%9999999d" 1 }}{{ end }}', "amount of text"),
        ('{{ $x := "xxxxxxxx" }}{{ range 60 }}{{ $x = print $x $x }}{{ end }}', "amount of text"),
        ("{{ range 1000000000 }}{{ range 1000 }}{{ end }}{{ end }}", "number of steps"),
        ("{{ range 1000000000 }}x{{ end }}", "number of steps"),
        ("{{ range 100000 }}{{ $x := 1" + " | print" * 99 + " }}{{ end }}", "number of steps"),
        (
            '{{ $x := "xxxxxxxx" }}{{ range 18 }}{{ $x = print $x $x }}{{ end }}{{ range 99 }}{{ eq $x $x }}{{ end }}',
            "amount of text",
        ),
    ],
)
def test_templates_that_would_not_end_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(TemplateError, match=f"exceeded maximum {complaint}"):
        Template.parse(text).render({})


@pytest.mark.parametrize(
    "action",
    [
        'printf "' + "%1000000[1]d" * 200 + '" 1',
        'printf "' + "%[1]*[2]d" * 200 + '" 1000000 1',
        'printf "' + "%.9999999[1]d" * 20 + '" 1',
        'printf "' + "%.9999999[1]f" * 20 + '" 1.5',
        'printf "%1000000v" .List',
        'printf "%.1000000v" .List',
        'printf "' + "%[1]s" * 200 + '" .Text',
        "js" + " .Less" * 12,
        "urlquery" + " .Less" * 24,
    ],
    ids=range(9),
)
def test_text_is_counted_before_it_is_there(action: str) -> None:
    template = Template.parse(f"{{{{ $x := {action} }}}}")
    data = {"List": list(range(100_000)), "Text": "x" * 1_000_000, "Less": "<" * 1_000_000}
    tracemalloc.start()
    try:
        with pytest.raises(TemplateError, match="exceeded maximum amount of text"):
            template.render(data)
        assert tracemalloc.get_traced_memory()[1] < 180_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("action", "complaint"),
    [
        ('printf "' + "%[1].0s" * 7000 + '" 1', "number of steps"),
        ('printf "' + "%[" * 7000 + '" 1', "number of steps"),
        ('printf "%.0s" $.Calls', "amount of text"),
        ('printf "%' + "0" * 100_000 + 'd" 1', "amount of text"),
        ("and" + " 1" * 10_000, "number of steps"),
        ("len (index $.List 0)", "amount of text"),
        ('index $.Map "text" 0', "amount of text"),
        ("slice $.List", "amount of text"),
    ],
    ids=range(8),
)
def test_a_round_with_much_work_in_it_is_no_way_around_the_budget(action: str, complaint: str) -> None:
    template = Template.parse(f"{{{{ range 400000 }}}}{{{{ $x := {action} }}}}{{{{ end }}}}")
    text = "\u00e9" * 100_000
    calls = Table({"text": text}, "template.templateArgs")
    begun = time.monotonic()
    with pytest.raises(TemplateError, match=f"exceeded maximum {complaint}"):
        template.render({"List": [text] * 1000, "Map": {"text": text}, "Calls": calls})
    assert time.monotonic() - begun < 20


def test_a_map_that_is_only_begun_counts_as_a_whole() -> None:
    template = Template.parse("{{ range 300000 }}{{ range $.Map }}{{ break }}{{ end }}{{ end }}")
    budget = Budget()
    budget.take_room(MAX_TEXT * 7 // 8)
    with pytest.raises(TemplateError, match="exceeded maximum amount of text"):
        template.render({"Map": {str(number): number for number in range(10_000)}}, budget=budget)


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (f'printf "%[{"9" * 5000}]d" 1', "%!d(BADINDEX)"),
        (f'printf "%[{"0" * 5000}2]d" 1 2', "2"),
        (f'printf "%{"9" * 5000}d" 1', "%!(NOVERB)%!(EXTRA int=1)"),
        (f'printf "%.{"9" * 5000}d" 1', "%!(NOVERB)%!(EXTRA int=1)"),
        (f'printf "%*d" 1{"0" * 9} 1', "%!(BADWIDTH)1"),
        (f'printf "%{"0" * 5000}3d" 1', "001"),
    ],
    ids=range(6),
)
def test_numbers_with_thousands_of_digits_are_refused_as_go_does(action: str, expected: str) -> None:
    assert Template.parse(f"{{{{ {action} }}}}").render({}) == expected


def test_the_turns_of_a_conversation_share_a_budget() -> None:
    template = Template.parse("{{ range 100000 }}{{ end }}{{ .Prompt }}")
    turns = [Message("user", "q"), Message("assistant", "a")]
    assert render_messages(template, turns * 2).startswith("qa")
    with pytest.raises(TemplateError, match="exceeded maximum number of steps"):
        render_messages(template, turns * 20)


def test_a_variable_is_found_at_once_among_many() -> None:
    many = "".join(f"{{{{ $v{number} := {number} }}}}" for number in range(5000))
    template = Template.parse("{{ $first := 1 }}" + many + "{{ range 100000 }}{{ $first = $first }}{{ end }}")
    begun = time.process_time()
    assert template.render({}) == ""
    assert time.process_time() - begun < 10


def test_a_variable_hides_the_one_outside_until_its_block_ends() -> None:
    template = Template.parse(
        "{{ $x := 1 }}{{ range $i, $x := .L }}{{ $x }}{{ $x := 8 }}{{ $x }}{{ $x = 9 }}{{ $x }}{{ end }}{{ $x }}"
        "{{ if true }}{{ $x = 2 }}{{ $x := 3 }}{{ $x = 4 }}{{ $x }}{{ end }}{{ $x }}"
        "{{ $x := 5 }}{{ $x }}{{ with $x := 6 }}{{ $x }}{{ end }}{{ $x }}{{ $x = 7 }}{{ $x }}{{ $.A }}",
    )
    assert template.render({"L": ["a", "b"], "A": "z"}) == "a89b891425657z"


@pytest.mark.parametrize("depth", [300, 900])
@pytest.mark.parametrize(
    "text", ["{{ range .Messages }}{{ range .ToolCalls }}{{ . }}{{ end }}{{ end }}", "{{ .Tools }}{{ .Messages }}"]
)
def test_data_nested_too_deeply_is_refused(text: str, depth: int) -> None:
    deep: Any = {}
    for _ in range(depth):
        deep = {"a": [deep]}
    message = Message(role="assistant", content="", tool_calls=(ToolCall(name="f", arguments=deep),))
    tools = [{"function": {"parameters": {"items": deep}}}]
    with pytest.raises(TemplateError, match=r"nested too deeply|Recursion limit|maximum template depth"):
        render_messages(Template.parse(text), [message], tools=tools)
