import time

import pytest

from mlx_ollama.gotemplate import Template, TemplateError, render_fill, render_messages
from mlx_ollama.types import Message, ToolCall
from tests.gotemplate.talk import talk

# The template `toolthink` of the recorded exchanges, and what the reference server made of it.
TOOLTHINK = (
    "{{ if .Tools }}T{{ .Tools }}{{ end }}{{ range .Messages }}"
    '{{ if eq .Role "assistant" }}{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}'
    '{{ if .ToolCalls }}<tool_call>{{ range .ToolCalls }}{"name":"{{ .Function.Name }}",'
    '"arguments":{{ .Function.Arguments }}}{{ end }}</tool_call>{{ end }}'
    "{{ else }}<|{{ .Role }}|>{{ .Content }}{{ end }}{{ end }}<|assistant|>"
)
FULL = "{{ if .System }}<sys>{{ .System }}{{ end }}{{ range .Messages }}<{{ .Role }}>{{ .Content }}{{ end }}"


def render(text: str, *turns: tuple[str, str]) -> str:
    return render_messages(Template.parse(text), talk(*turns))


def test_neighbours_of_one_role_are_merged() -> None:
    assert render(TOOLTHINK, ("user", "a"), ("user", "b")) == "<|user|>a\n\nb<|assistant|>"


def test_many_neighbours_take_no_longer_than_they_are_long() -> None:
    turns = [Message("user", "x" * 1_000_000), *[Message("user", "a")] * 40_000]
    began = time.process_time()
    assert len(render_messages(Template.parse("{{ .Prompt }}"), turns)) == 1_000_000 + 3 * 40_000
    assert time.process_time() - began < 1


def test_results_of_tools_are_not_merged() -> None:
    assert render(TOOLTHINK, ("tool", "a"), ("tool", "b")) == "<|tool|>a<|tool|>b<|assistant|>"


def test_the_system_message_is_a_variable_and_a_message() -> None:
    turns = [("user", "hi"), ("assistant", "hello\nthere"), ("system", "mine"), ("user", "hi")]
    assert render(FULL, *turns) == "<sys>mine<user>hi<assistant>hello\nthere<system>mine<user>hi"


def test_arguments_are_sorted_and_escaped() -> None:
    call = ToolCall(name="f", arguments={"z": 1, "a": "<"}, id="c1")
    messages = [
        Message(role="user", content="x"),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="res", tool_name="f", tool_call_id="c1"),
    ]
    assert render_messages(Template.parse(TOOLTHINK), messages) == (
        '<|user|>x<tool_call>{"name":"f","arguments":{"a":"\\u003c","z":1}}</tool_call><|tool|>res<|assistant|>'
    )


def test_a_tool_without_parameters() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert render_messages(Template.parse("{{ .Tools }}{{ len .Messages }}"), [], tools=tools) == (
        '[{"type":"function","function":{"name":"f","description":"","parameters":{"type":"","properties":null}}}]0'
    )


def test_unknown_schema_keywords_are_dropped() -> None:
    properties = {
        "z": {"type": "array", "items": {"type": "string"}, "enum": ["a", 1], "default": 3},
        "a": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    }
    parameters = {"type": "object", "additionalProperties": False, "properties": properties}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    assert render_messages(Template.parse("{{ .Tools }}{{ len .Messages }}"), [], tools=tools) == (
        '[{"type":"function","function":{"name":"f","description":"","parameters":{"type":"object","properties":{'
        '"a":{"anyOf":[{"type":"string"},{"type":"null"}]},'
        '"z":{"type":"array","items":{"type":"string"},"enum":["a",1]}}}}}]0'
    )


def test_images_can_be_counted() -> None:
    message = Message(role="user", content="x", images=(b"\x01\x02", b"\x03"))
    template = Template.parse("{{ range .Messages }}{{ len .Images }} {{ .Images }} {{ json .Images }}{{ end }}")
    assert render_messages(template, [message]) == '2 [[1 2] [3]] ["AQI=","Aw=="]'


TURNS = "{{ if .System }}s:{{ .System }} {{ end }}{{ if .Prompt }}u:{{ .Prompt }} {{ end }}a:{{ .Response }}. "


@pytest.mark.parametrize(
    ("turns", "prompt"),
    [
        ([], "a:"),
        ([("user", "1")], "u:1 a:"),
        ([("system", "S"), ("user", "1")], "s:S u:1 a:"),
        ([("user", "1"), ("assistant", "2")], "u:1 a:2"),
        ([("user", "1"), ("assistant", "2"), ("user", "3")], "u:1 a:2. u:3 a:"),
        ([("user", "1"), ("system", "S"), ("user", "2")], "u:1 a:. s:S u:2 a:"),
        ([("assistant", "1"), ("system", "S")], "a:1. s:S a:"),
        ([("assistant", "1"), ("user", "2"), ("tool", "3")], "a:1. u:2 a:"),
    ],
)
def test_turns(turns: list[tuple[str, str]], prompt: str) -> None:
    assert render(TURNS, *turns) == prompt


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("{{ .Prompt }}", "uanext"),
        ("{{ .Prompt }}|", "u|anext|"),
        ("{{ .Prompt }}[{{ .Response }}]", "u[a]next["),
        ("{{ .Prompt }}{{ if .Response }}({{ .Response }}){{ else }}none{{ end }}.", "u(a).next"),
        ("{{ .Prompt }}{{ with .Response }}({{ . }}){{ end }}.", "u(a).next."),
        ("{{ .Prompt }}{{ if .No }}{{ else }}({{ .Response }}){{ end }}.", "u(a).next("),
        ('{{ .Prompt }}{{ printf "<%s>" .Response | print }}.', "u<a>.next<>"),
        ("{{ .Prompt }}{{ print (print .Response) .Prompt }}.", "uau.next"),
        ("{{ .Prompt }}{{ $.Response }}.", "ua.next."),
    ],
)
def test_the_last_turn_ends_at_the_response(text: str, prompt: str) -> None:
    assert render(text, ("user", "u"), ("assistant", "a"), ("user", "next")) == prompt


def test_defined_templates_serve_turns_too() -> None:
    text = '{{ define "p" }}<{{ . }}>{{ end }}{{ template "p" .Prompt }}{{ .Response }}'
    assert render(text, ("user", "u"), ("assistant", "a"), ("user", "v")) == "<u>a<v>"


def test_fill() -> None:
    template = Template.parse("<PRE>{{ .Prompt }}<SUF>{{ .Suffix }}<MID>{{ .Response }}{{ .Think }}")
    assert render_fill(template, "a", "b", think=True) == "<PRE>a<SUF>b<MID>true"


def test_thinking_variables() -> None:
    template = Template.parse("{{ .Think }} {{ .ThinkLevel }} {{ .IsThinkSet }} {{ len .Messages }}")
    prompt = render_messages(template, [], think=True, think_level="high", is_think_set=True)
    assert prompt == "true high true 0"


def test_an_error_of_execution_names_the_place() -> None:
    with pytest.raises(TemplateError) as complaint:
        render("{{ range .Messages }}\n{{ .Nope }}{{ end }}", ("user", "x"))
    assert str(complaint.value) == (
        'template: :2:3: executing "" at <.Nope>: can\'t evaluate field Nope in type *template.templateMessage'
    )
