"""What Go's own text/template answered to `record.go` (`cases.jsonl`), this package answers too."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from mlx_ollama.gotemplate import Template, TemplateError, render_fill, render_messages
from tests.gotemplate.talk import Conversation, conversations

HERE = Path(__file__).parent
CASES = [json.loads(line) for line in (HERE / "cases.jsonl").read_text().splitlines()]
LANGUAGE = [case for case in CASES if "conversation" not in case]
FAMILIES = [case for case in CASES if "conversation" in case]
WORLD = json.loads((HERE / "world.json").read_text())
CONVERSATIONS = conversations()

Case = dict[str, Any]


def _today() -> date:
    return date(2026, 3, 1)


def _render(text: str, conversation: Conversation) -> str:
    template = Template.parse(text)
    if conversation.suffix:
        return render_fill(
            template,
            conversation.prompt,
            conversation.suffix,
            today=_today,
            **conversation.thinking,
        )
    return render_messages(
        template,
        conversation.messages,
        tools=conversation.tools,
        today=_today,
        **conversation.thinking,
    )


@pytest.mark.parametrize("case", LANGUAGE, ids=lambda case: case["name"])
def test_language(case: Case) -> None:
    if "error" in case:
        with pytest.raises(TemplateError) as complaint:
            Template.parse(case["template"]).render(WORLD, today=_today)
        assert str(complaint.value) == case["error"]
    else:
        assert Template.parse(case["template"]).render(WORLD, today=_today) == case["output"]


@pytest.mark.parametrize("case", FAMILIES, ids=lambda case: case["name"])
def test_family(case: Case) -> None:
    text = (HERE / "templates" / f"{case['template']}.gotmpl").read_text()
    conversation = CONVERSATIONS[case["conversation"]]
    if "error" in case:
        with pytest.raises(TemplateError) as complaint:
            _render(text, conversation)
        assert str(complaint.value) == case["error"]
    else:
        assert _render(text, conversation) == case["output"]


def test_the_recording_is_complete() -> None:
    lines = [line for line in (HERE / "language.txt").read_text().split("\n") if line and not line.startswith("## ")]
    assert [case["template"] for case in LANGUAGE] == [line.replace("⏎", "\n") for line in lines]
    assert {case["template"] for case in FAMILIES} == {path.stem for path in (HERE / "templates").glob("*.gotmpl")}
