"""The reference's native answers to scripted tokens: the same tokens through stream, parser and encoder give the same
bytes, but for times and ids.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from mlx_ollama.doors import DOORS
from mlx_ollama.protocol import Prompt
from mlx_ollama.schemas import known_parts
from mlx_ollama.thinking import Thinking
from mlx_ollama.types import Chat, Completion, Delta, Done, Event, Generation, Message, Rendered, TokenLogprob, Usage
from mlx_ollama.worker.likelihood import Likelihood
from mlx_ollama.worker.parse.choice import make_parser
from mlx_ollama.worker.prompt import PromptTokens, render
from mlx_ollama.worker.sampling import Choice, Sampler
from mlx_ollama.worker.stream import Stream
from mlx_ollama.worker.text import TextStream
from tests.compat.differences import DIFFERENCES
from tests.compat.recordings import cases
from tests.gotemplate.test_prompt import TOOLTHINK
from tests.worker.parse.tokenizers import tokenizer_of

FAMILIES = {"q3c": "qwen3-coder", "q35": "qwen3.5"}
TIME = re.compile(r'"created_at":"[^"]*"')
ID = re.compile(r'"id":"call_[a-z0-9]{8}"')


class Script(Likelihood):
    """What the reference's token source was told to say."""

    def __init__(self, pieces: list[Any], most: int) -> None:
        self._most = most
        self.texts = [piece if isinstance(piece, str) else piece.get("content", "") for piece in pieces]
        self._entries = [piece.get("lp", []) if isinstance(piece, dict) else [] for piece in pieces]
        self.has_logprobs = any(self._entries)

    def of(self, token: int) -> TokenLogprob:
        entries = self._entries[token] if token < len(self._entries) else []
        return _logprob(entries[0], self._most) if entries else TokenLogprob("", 0.0, ())


def _logprob(entry: Mapping[str, Any], most: int) -> TokenLogprob:
    top = tuple(_logprob(other, 0) for other in entry.get("top_logprobs", ())[:most])
    return TokenLogprob(entry["token"], entry["logprob"], tuple(entry["token"].encode()), top)


def _prompt(call: Generation) -> Prompt:
    can_think = call.model in ("toolthink", "q35")
    thinking = Thinking.settle(call.think, can_think=can_think, harmony=False)
    return Prompt(
        "raw" if isinstance(call, Completion) and call.raw else "chat",
        64,
        0,
        shift=True,
        template=TOOLTHINK if call.model == "toolthink" else None,
        messages=tuple(call.messages) if isinstance(call, Chat) else (Message("user", "x"),),
        tools=tuple(map(known_parts, call.tools)) if isinstance(call, Chat) else (),
        think=thinking.think,
        think_level=thinking.level,
        think_set=thinking.is_set,
    )


def _answer(call: Generation, script: Script, *, is_limited: bool) -> list[Event]:
    tokenizer, prompt = tokenizer_of(FAMILIES.get(call.model, "plain")), _prompt(call)
    if call.render_only:
        return [Rendered(render(prompt, tokenizer))]
    rendered = render(prompt, tokenizer)
    parser = make_parser(prompt, tokenizer, rendered)
    likelihood = script if script.has_logprobs else None
    tokens = PromptTokens(rendered, [], [])
    stream = Stream(0, tokens, 9, False, 0, TextStream(()), parser, Sampler(Choice()), [], likelihood)
    deltas = []
    for token, text in enumerate(script.texts):
        is_last = is_limited and token == len(script.texts) - 1
        stream.add(token, text.encode(), is_end=False, is_last=is_last)
        deltas.append(stream.take())
    if not is_limited:
        stream.add(len(script.texts), b"", is_end=True, is_last=True)
        deltas.append(stream.take())
    return [_named(delta) for delta in deltas if delta]


def _named(delta: Delta) -> Delta:
    calls = [replace(call, index=at, id="call_00000000") for at, call in enumerate(delta.tool_calls)]
    return delta._replace(tool_calls=tuple(calls))


def _done(last: Mapping[str, Any]) -> Done:
    usage = Usage(
        last["prompt_eval_count"],
        last["prompt_eval_duration"],
        last["eval_count"],
        last["eval_duration"],
        last["load_duration"],
        last["total_duration"],
    )
    return Done(last["done_reason"], usage, tuple(last["context"]) if "context" in last else None)


def _body(case: Mapping[str, Any]) -> str:
    """What we answer."""
    request = case["request"]
    door = DOORS[request["path"]]
    call = door.decode(request["body"].encode(), {})
    assert isinstance(call, Generation)
    script = json.loads(case["setup"].removeprefix("runner script: "))
    recorded = case["response"]["body"]
    last = json.loads(recorded.strip().splitlines()[-1])
    said = Script(script.get("completion", script.get("chat")), call.top_logprobs)
    events = _answer(call, said, is_limited="stop_type" in script)
    answers: Any = door.answers(call)
    if call.render_only:
        return str(answers.whole(events[:1]), "utf-8")
    events.append(_done(last))
    if not call.stream:
        return str(answers.whole(events), "utf-8")
    return "".join(str(answers.event(event), "utf-8") for event in events)


def _without_times(body: str) -> str:
    return ID.sub('"id":"call_00000000"', TIME.sub('"created_at":""', body))


@pytest.mark.parametrize("case", cases("scripted"), ids=lambda case: case["name"])
def test_the_answer_is_the_references(case: dict[str, Any]) -> None:
    got, recorded = _without_times(_body(case)), _without_times(case["response"]["body"])
    difference = DIFFERENCES.get(case["name"])
    assert (got == recorded) is (difference is None)
    if difference and difference.unordered:
        assert list(map(json.loads, got.splitlines())) == list(map(json.loads, recorded.splitlines()))


def test_an_unknown_function_is_text() -> None:
    case = next(case for case in cases("scripted") if case["name"] == "tools_unknown_fn")
    *lines, _ = map(json.loads, _body(case).splitlines())
    text = "".join(line["message"]["content"] for line in lines)
    assert text == '<tool_call>{"name":"unknown_fn","arguments":{}}</tool_call>'


def test_format_is_answered_once_and_thought_about() -> None:
    case = next(case for case in cases("scripted") if case["name"] == "think_format")
    lines = list(map(json.loads, _body(case).splitlines()))
    assert "".join(line["message"].get("thinking", "") for line in lines) == "reason"
    assert "".join(line["message"]["content"] for line in lines) == "answer"
