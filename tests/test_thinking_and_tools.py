"""Thinking and tools over HTTP, with a model that thinks, speaks and calls one of two tools."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from tests.gotemplate.test_prompt import TOOLTHINK
from tests.support.cli import import_model
from tests.support.parrot import write_parrot
from tests.support.server import Server, serving
from tests.worker.parse.feeding import GET_W
from tests.worker.parse.tokenizers import FAMILIES

pytestmark = pytest.mark.xdist_group("thinking-and-tools")

CALL = '{"name": "get_w", "arguments": {"n": 3, "city": "Rome"}}'
ANSWER = ("<think>", "h", "m", "</think>", "Sure", " ", "<tool_call>", CALL, "</tool_call>")
RAW = "".join(ANSWER)
UNKNOWN = {"type": "function", "function": {"name": "other", "parameters": {"type": "object"}}}
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`jinja` and `go` have tools and thinking, by their own template and by a TEMPLATE; `plain` has neither."""
    home = tmp_path_factory.mktemp("parrots")
    (home / "toolthink").write_text(TOOLTHINK)
    (home / "nothing").write_text("{{ .Prompt }}<|assistant|>")
    directory = write_parrot(
        home / "parrot", FAMILIES["qwen3"][0], ANSWER, ["<|im_start|>assistant\n", "<|assistant|>"]
    )
    for name, template in (("jinja", ""), ("go", "toolthink"), ("plain", "nothing"), ("deepseek-r1", "nothing")):
        options = ["--template", str(home / template)] if template else []
        import_model(home, name, directory, "--parameter", "temperature=0", *options)
    with serving(home) as running:
        yield running


def _chat(server: Server, model: str = "jinja", **members: Any) -> dict[str, Any]:
    body = {"model": model, "messages": HI, "stream": False, "tools": [GET_W], **members}
    answer = server.post("/api/chat", body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _called(message: dict[str, Any]) -> list[tuple[int, str, str]]:
    functions = [call["function"] for call in message.get("tool_calls", ())]
    return [(function["index"], function["name"], json.dumps(function["arguments"])) for function in functions]


def test_capabilities_are_told(server: Server) -> None:
    listed = {model["name"]: model["capabilities"] for model in server.client.get("/api/tags").json()["models"]}
    both = ["completion", "tools", "thinking"]
    assert listed == {
        "jinja:latest": both,
        "go:latest": both,
        "plain:latest": ["completion"],
        "deepseek-r1:latest": ["completion"],
    }
    for name, capabilities in listed.items():
        assert server.post("/api/show", {"model": name}).json()["capabilities"] == capabilities


@pytest.mark.parametrize(("model", "content"), [("jinja", "Sure"), ("go", "Sure ")])
def test_a_chat_thinks_speaks_and_calls(server: Server, model: str, content: str) -> None:
    whole = _chat(server, model)
    message = whole["message"]
    assert (message["content"], message["thinking"]) == (content, "hm")
    assert _called(message) == [(0, "get_w", '{"n": 3, "city": "Rome"}')]
    assert message["tool_calls"][0]["id"].startswith("call_")
    assert (whole["done"], whole["done_reason"], whole["eval_count"]) == (True, "stop", len(ANSWER) + 1)


@pytest.mark.parametrize("model", ["jinja", "go"])
def test_a_stream_ends_with_done(server: Server, model: str) -> None:
    lines = server.lines("/api/chat", {"model": model, "messages": HI, "tools": [GET_W]})
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert lines[-1]["done_reason"] == "stop"
    assert lines[-1]["message"] == {"role": "assistant", "content": ""}
    parts = [set(line["message"]) - {"role"} for line in lines[:-1]]
    kinds = [next(iter(part - {"content"}), "content") for part in parts]
    assert [kind for at, kind in enumerate(kinds) if kinds[at - 1 : at] != [kind]] == [
        "thinking",
        "content",
        "tool_calls",
    ]
    assert all(any(line["message"].get(key) for key in ("content", "thinking", "tool_calls")) for line in lines[:-1])


@pytest.mark.parametrize("model", ["jinja", "go"])
def test_what_is_not_wanted_is_text(server: Server, model: str) -> None:
    assert _chat(server, model, think=False, tools=[])["message"] == {"role": "assistant", "content": RAW}
    message = _chat(server, model, tools=[UNKNOWN])["message"]
    assert message == {"role": "assistant", "content": RAW.partition("</think>")[2], "thinking": "hm"}


@pytest.mark.parametrize("limit", range(1, len(ANSWER) + 1))
def test_nothing_is_lost_wherever_an_answer_is_cut_off(server: Server, limit: int) -> None:
    whole = _chat(server, options={"num_predict": limit})
    message, said = whole["message"], ANSWER[:limit]
    assert whole["done_reason"] == "length"
    assert message.get("thinking", "") == "".join(part for part in said if part in ("h", "m"))
    spoken = "".join(said[4:])
    called = CALL in said
    assert message["content"] == ("Sure" if called else spoken)
    assert bool(_called(message)) == called


def test_generate_thinks_too(server: Server) -> None:
    lines = server.lines("/api/generate", {"model": "go", "prompt": "hi"})
    assert "".join(line.get("thinking", "") for line in lines) == "hm"
    assert "".join(line["response"] for line in lines) == RAW.partition("</think>")[2]
    empty = [line for line in lines[:-1] if not line["response"] and "thinking" not in line]
    assert empty, "a line for each piece that is withheld"
    whole = server.post("/api/generate", {"model": "jinja", "prompt": "hi", "stream": False}).json()
    assert (whole["thinking"], whole["response"]) == ("hm", RAW.partition("</think>")[2])
    raw = server.post(
        "/api/generate", {"model": "jinja", "prompt": "<|assistant|>", "raw": True, "stream": False}
    ).json()
    assert (raw["response"], "thinking" in raw) == (RAW, False)


@pytest.mark.parametrize("think", [True, "low", "medium", "high", "max"])
def test_levels_are_taken(server: Server, think: bool | str) -> None:
    assert _chat(server, think=think)["message"]["thinking"] == "hm"


@pytest.mark.parametrize("think", [True, "low", "max"])
@pytest.mark.parametrize(("path", "rest"), [("/api/chat", {"messages": HI}), ("/api/generate", {"prompt": "hi"})])
def test_models_that_cannot_think_say_so(server: Server, path: str, rest: dict[str, Any], think: bool | str) -> None:
    refused = server.post(path, {"model": "plain:latest", "think": think, **rest})
    assert (refused.status_code, refused.json()) == (400, {"error": '"plain:latest" does not support thinking'})


def test_an_older_model_should_be_pulled_again(server: Server) -> None:
    refused = server.post("/api/generate", {"model": "deepseek-r1", "prompt": "x", "think": True})
    assert refused.json()["error"] == (
        '"deepseek-r1" does not support thinking. '
        "Pull the model again to get the latest version with full thinking support"
    )


def test_models_without_tools_say_so(server: Server) -> None:
    refused = server.post("/api/chat", {"model": "plain", "messages": HI, "tools": [GET_W]})
    assert refused.status_code == 400
    assert refused.json() == {"error": "registry.ollama.ai/library/plain:latest does not support tools"}
    accepted = server.post(
        "/api/chat", {"model": "plain", "messages": HI, "tools": [], "think": False, "stream": False}
    )
    assert accepted.json()["message"] == {"role": "assistant", "content": RAW}


def test_the_prompt_has_the_tools_without_what_nobody_knows(server: Server) -> None:
    tool = json.loads(json.dumps(GET_W))
    tool["function"]["parameters"]["additionalProperties"] = False
    for model in ("jinja", "go"):
        body = {"model": model, "messages": HI, "tools": [tool], "_debug_render_only": True}
        prompt = server.post("/api/chat", body).json()["_debug_info"]["rendered_template"]
        assert '"name":' in prompt.replace(" ", "")
        assert "additionalProperties" not in prompt


@pytest.fixture
def client(server: Server) -> Iterator[ollama.Client]:
    client = ollama.Client(host=server.url, trust_env=False)
    yield client
    client._client.close()


def test_a_whole_conversation_with_ollamas_client(client: ollama.Client) -> None:
    def get_w(city: str, n: int = 1) -> str:
        """Tell the weather.

        Args:
            city: where
            n: how many days
        """
        return f"{n} sunny days in {city}"

    messages: list[Any] = list(HI)
    first = client.chat("jinja", messages, tools=[get_w], think=True)
    assert first.message.thinking == "hm"
    assert first.message.tool_calls
    call = first.message.tool_calls[0].function
    result = get_w(**call.arguments)
    assert result == "3 sunny days in Rome"
    messages += [first.message, {"role": "tool", "content": result, "tool_name": call.name}]
    second = client.chat("jinja", messages, tools=[get_w], stream=True)
    parts = list(second)
    assert "".join(part.message.thinking or "" for part in parts) == "hm"
    assert parts[-1].done
    with pytest.raises(ollama.ResponseError, match="does not support tools"):
        client.chat("plain", messages, tools=[get_w])


def test_several_at_once_do_not_mix(server: Server) -> None:
    body = {"model": "jinja", "messages": HI, "tools": [GET_W]}
    with (
        httpx.Client(base_url=server.url, timeout=60, trust_env=False) as other,
        server.client.stream("POST", "/api/chat", json=body) as one,
        other.stream("POST", "/api/chat", json=body) as two,
    ):
        answers = [list(map(json.loads, stream.iter_lines())) for stream in (one, two)]
    ids = {call["id"] for lines in answers for line in lines for call in line["message"].get("tool_calls", ())}
    assert len(ids) == 2
    assert [sum(len(line["message"].get("tool_calls", ())) for line in lines) for lines in answers] == [1, 1]


def test_what_was_thought_before_is_not_read_again(server: Server) -> None:
    talk = [*HI, {"role": "assistant", "content": "<think>deep</think>\n\nHello"}, {"role": "user", "content": "so?"}]
    body = {"model": "deepseek-r1", "messages": talk, "_debug_render_only": True}
    prompt = server.post("/api/chat", body).json()["_debug_info"]["rendered_template"]
    assert "Hello" in prompt
    assert "deep" not in prompt
    kept = server.post("/api/chat", {**body, "model": "plain"}).json()["_debug_info"]["rendered_template"]
    assert "deep" in kept


@pytest.mark.parametrize("model", ["jinja", "go"])
@pytest.mark.parametrize("think", [None, True, False])
def test_a_format_holds_the_answer_and_not_the_thinking(server: Server, model: str, think: bool | None) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    body = {"model": model, "messages": HI, "format": schema, "think": think, "options": {"num_predict": 60}}
    lines = server.lines("/api/chat", body)
    content = "".join(line["message"]["content"] for line in lines)
    thinking = "".join(line["message"].get("thinking", "") for line in lines)
    assert json.loads(content) in ({"n": 1}, {"n": 2})
    assert thinking == ("" if think is False else "hm")
    assert lines[-1]["done_reason"] == "stop"


def test_thoughts_and_formats_that_do_not_end_are_cut_off(server: Server) -> None:
    schema = {"type": "string", "minLength": 500}
    whole = _chat(server, format=schema, tools=[], options={"num_predict": 30})
    assert (whole["done_reason"], whole["message"]["thinking"]) == ("length", "hm")
    assert whole["message"]["content"].startswith('"')


@pytest.mark.parametrize(
    ("tokens", "rendered"),
    [
        (("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"), "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"),
        (("<fim_prefix>", "<fim_suffix>", "<fim_middle>"), "<fim_prefix>a<fim_suffix>b<fim_middle>"),
        (("[SUFFIX]", "[PREFIX]"), "[SUFFIX]b[PREFIX]a"),
        (("<|fim_prefix|>", "<|fim_middle|>"), None),
    ],
)
def test_filling_in_where_the_tokenizer_can(tmp_path: Path, tokens: tuple[str, ...], rendered: str | None) -> None:
    directory = write_parrot(tmp_path / "coder", FAMILIES["plain"][0], ["mid", "dle"], [tokens[-1], "a"], knows=tokens)
    import_model(tmp_path, "coder", directory, "--parameter", "temperature=0")
    with serving(tmp_path) as server:
        body = {"model": "coder", "prompt": "a", "suffix": "b", "stream": False}
        answer = server.post("/api/generate", body)
        capabilities = server.post("/api/show", {"model": "coder"}).json()["capabilities"]
        if rendered is None:
            message = "registry.ollama.ai/library/coder:latest does not support insert"
            assert (answer.status_code, answer.json()) == (400, {"error": message})
            assert capabilities == ["completion"]
            return
        assert capabilities == ["completion", "insert"]
        assert answer.json()["response"] == "middle"
        shown = server.post("/api/generate", {**body, "_debug_render_only": True}).json()
        assert shown["_debug_info"]["rendered_template"] == rendered
