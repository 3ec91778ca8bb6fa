"""From a template and a conversation to a prompt (wire-spec 4.3, 12.2)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import Any

from mlx_ollama.gotemplate.errors import TemplateError
from mlx_ollama.gotemplate.messages import Message, as_go_messages, joined_system, merged
from mlx_ollama.gotemplate.template import Template
from mlx_ollama.gotemplate.tools import as_go_tools
from mlx_ollama.gotemplate.turns import render_turns


def render_messages(
    template: Template,
    messages: Sequence[Message],
    *,
    tools: Iterable[Mapping[str, Any]] | None = None,
    think: bool = False,
    think_level: str = "",
    is_think_set: bool = False,
    today: Callable[[], date] = date.today,
) -> str:
    """The prompt for a conversation: in one go if the template refers to `.Messages`, else turn by turn.

    Raises:
        TemplateError: the template cannot be executed.
    """
    thinking = _thinking(think, think_level, is_think_set)
    if "messages" not in template.variables:
        return render_turns(template, merged(messages), thinking, today=today)
    return template.render(_conversation(messages, tools or ()) | thinking, today=today)


def render_fill(
    template: Template,
    prompt: str,
    suffix: str,
    *,
    think: bool = False,
    think_level: str = "",
    is_think_set: bool = False,
    today: Callable[[], date] = date.today,
) -> str:
    """The prompt to fill in what stands between `prompt` and `suffix`.

    Raises:
        TemplateError: the template cannot be executed.
    """
    data = {"Prompt": prompt, "Suffix": suffix, "Response": ""}
    return template.render(data | _thinking(think, think_level, is_think_set), today=today)


def _conversation(messages: Sequence[Message], tools: Iterable[Mapping[str, Any]]) -> dict[str, object]:
    try:
        return {
            "System": joined_system(messages),
            "Messages": as_go_messages(merged(messages)),
            "Tools": as_go_tools(tools),
            "Response": "",
        }
    except RecursionError as error:
        raise TemplateError("template: : arguments or tools are nested too deeply") from error


def _thinking(think: bool, think_level: str, is_think_set: bool) -> dict[str, object]:
    return {"Think": think, "ThinkLevel": think_level, "IsThinkSet": is_think_set}
