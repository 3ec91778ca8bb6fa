"""`/v1/responses` and `/v1/messages` through the genuine SDKs, with a model that thinks, speaks and calls a tool."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import openai
import pydantic
import pytest
from backports import zstd

from tests.support.cli import import_model
from tests.support.parrot import write_parrot
from tests.support.server import Server, serving
from tests.test_thinking_and_tools import ANSWER, CALL, HI, RAW
from tests.worker.parse.feeding import GET_W
from tests.worker.parse.tokenizers import FAMILIES

pytestmark = pytest.mark.xdist_group("responses-and-messages")

ARGUMENTS = json.loads(CALL)["arguments"]
SCHEMA = GET_W["function"]["parameters"]
ANTHROPIC_TOOL: Any = {"name": "get_w", "description": "weather", "input_schema": SCHEMA}
OPENAI_TOOL: Any = {"type": "function", "name": "get_w", "strict": False, "parameters": SCHEMA}
THINKING: Any = {"type": "enabled", "budget_tokens": 1024}
TALK: Any = list(HI)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`able` has tools and thinking, `plain` has neither."""
    home = tmp_path_factory.mktemp("events")
    (home / "nothing").write_text("{{ .Prompt }}<|assistant|>")
    directory = write_parrot(
        home / "parrot", FAMILIES["qwen3"][0], ANSWER, ["<|im_start|>assistant\n", "<|assistant|>"]
    )
    for name, template in (("able", []), ("plain", ["--template", str(home / "nothing")])):
        import_model(home, name, directory, "--parameter", "temperature=0", *template)
    with serving(home) as running:
        yield running


@pytest.fixture
def claude(server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def gpt(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def _blocks(message: anthropic.types.Message) -> list[tuple[str, Any]]:
    members = {"thinking": "thinking", "text": "text", "tool_use": "input"}
    return [(block.type, getattr(block, members[block.type])) for block in message.content]


WHOLE = [("thinking", "hm"), ("text", "Sure"), ("tool_use", ARGUMENTS)]


def test_a_message(claude: anthropic.Anthropic) -> None:
    message = claude.messages.create(
        model="able", max_tokens=100, messages=TALK, tools=[ANTHROPIC_TOOL], thinking=THINKING
    )
    assert _blocks(message) == WHOLE
    assert (message.stop_reason, message.model, message.role) == ("tool_use", "able", "assistant")
    assert message.usage.output_tokens == len(ANSWER) + 1
    assert message.usage.input_tokens > 0


def test_a_streamed_message(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(
        model="able", max_tokens=100, messages=TALK, tools=[ANTHROPIC_TOOL], thinking=THINKING
    ) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    assert _blocks(message) == WHOLE
    assert (message.stop_reason, message.usage.output_tokens) == ("tool_use", len(ANSWER) + 1)
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 3


def test_a_whole_conversation_of_messages(claude: anthropic.Anthropic) -> None:
    first = claude.messages.create(model="able", max_tokens=100, messages=TALK, tools=[ANTHROPIC_TOOL])
    used = next(block for block in first.content if block.type == "tool_use")
    result: Any = {"type": "tool_result", "tool_use_id": used.id, "content": [{"type": "text", "text": "sunny"}]}
    talk: Any = [
        *TALK,
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]},
        {"role": "user", "content": [result, {"type": "text", "text": "and now?"}]},
    ]
    body = {"model": "able", "messages": talk, "tools": [ANTHROPIC_TOOL], "max_tokens": 3}
    second = claude.messages.create(**body)
    assert (second.stop_reason, second.usage.output_tokens) == ("max_tokens", 3)
    counted = claude.messages.count_tokens(model="able", messages=talk, tools=[ANTHROPIC_TOOL])
    assert counted.input_tokens == second.usage.input_tokens > first.usage.input_tokens


def test_messages_without_sync(server: Server) -> None:
    async def ask() -> tuple[anthropic.types.Message, str]:
        async with anthropic.AsyncAnthropic(base_url=server.url, api_key="none", max_retries=0) as client:
            whole = await client.messages.create(model="able", max_tokens=100, messages=TALK, tools=[ANTHROPIC_TOOL])
            async with client.messages.stream(
                model="able", max_tokens=100, messages=TALK, thinking={"type": "disabled"}
            ) as stream:
                return whole, "".join([text async for text in stream.text_stream])

    whole, text = asyncio.run(ask())
    assert _blocks(whole) == WHOLE
    assert text == RAW


class Number(pydantic.BaseModel):
    n: Literal[1, 2]


def test_parsed_messages(claude: anthropic.Anthropic) -> None:
    given: Any = {"model": "plain", "max_tokens": 60, "messages": TALK, "output_format": Number}
    assert isinstance(claude.messages.parse(**given).parsed_output, Number)
    with claude.messages.stream(**given) as stream:
        assert isinstance(stream.get_final_message().parsed_output, Number)


def test_messages_without_sync_that_think_and_call(server: Server) -> None:
    async def ask() -> anthropic.types.Message:
        async with (
            anthropic.AsyncAnthropic(base_url=server.url, api_key="none", max_retries=0) as client,
            client.messages.stream(
                model="able", max_tokens=100, messages=TALK, tools=[ANTHROPIC_TOOL], thinking=THINKING
            ) as stream,
        ):
            return await stream.get_final_message()

    assert _blocks(asyncio.run(ask())) == WHOLE


def test_a_model_that_cannot_think_is_asked_all_the_same(claude: anthropic.Anthropic) -> None:
    message = claude.messages.create(
        model="plain", max_tokens=100, messages=TALK, thinking=THINKING, stop_sequences=["Sure"]
    )
    assert _blocks(message) == [("text", RAW.partition("Sure")[0])]
    assert message.stop_reason == "end_turn"


def test_errors_are_anthropics(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="model 'none' not found") as missing:
        claude.messages.create(model="none", max_tokens=9, messages=TALK)
    body: Any = missing.value.body
    assert body["error"] == {"type": "not_found_error", "message": "model 'none' not found"}
    with pytest.raises(anthropic.NotFoundError, match="model 'none' not found"):
        claude.messages.count_tokens(model="none", messages=TALK)
    with pytest.raises(anthropic.BadRequestError, match="does not support tools"):
        claude.messages.create(model="plain", max_tokens=9, messages=TALK, tools=[ANTHROPIC_TOOL], stream=True)
    source: Any = {"type": "base64", "media_type": "image/png", "data": "aGk="}
    picture: Any = [{"role": "user", "content": [{"type": "image", "source": source}]}]
    with pytest.raises(anthropic.BadRequestError, match="this model does not support image input"):
        claude.messages.create(model="able", max_tokens=9, messages=picture)


@pytest.mark.parametrize("tools", [[], [ANTHROPIC_TOOL]])
@pytest.mark.parametrize("model", ["able", "plain"])
def test_a_count_is_what_an_answer_reports(server: Server, model: str, tools: list[Any]) -> None:
    if tools and model == "plain":
        return
    for length in (1, 30):
        body = {"model": model, "system": "be nice " * length, "messages": HI, "tools": tools}
        counted = server.post("/v1/messages/count_tokens", body)
        answered = server.post("/v1/messages", {**body, "max_tokens": 1}).json()
        assert (counted.status_code, counted.headers["content-type"]) == (200, "application/json")
        assert counted.json() == {"input_tokens": answered["usage"]["input_tokens"]}
    longer = {**body, "messages": [{"role": "user", "content": "word " * 5000}, *HI]}
    assert server.post("/v1/messages/count_tokens", longer).json()["input_tokens"] > 4096


def test_a_count_that_cannot_be_had(server: Server) -> None:
    refused = server.post("/v1/messages/count_tokens", {"model": "able"})
    assert (refused.status_code, refused.json()["error"]["message"]) == (400, "messages is required")
    assert server.client.get("/v1/messages/count_tokens").status_code == 405


def _items(response: Any) -> list[tuple[str, Any]]:
    read = {
        "reasoning": lambda item: item.summary[0].text,
        "message": lambda item: item.content[0].text,
        "function_call": lambda item: json.loads(item.arguments),
    }
    return [(item.type, read[item.type](item)) for item in response.output]


def test_a_response(gpt: openai.OpenAI) -> None:
    response = gpt.responses.create(model="able", input="hi", temperature=0, tools=[OPENAI_TOOL])
    assert _items(response) == [("reasoning", "hm"), ("function_call", ARGUMENTS)]
    assert (response.status, response.model) == ("completed", "able")
    assert response.usage
    assert response.usage.output_tokens == len(ANSWER) + 1
    plain = gpt.responses.create(model="plain", input="hi", temperature=0, max_output_tokens=5)
    assert plain.output_text == "".join(ANSWER[:5])
    assert plain.max_output_tokens == 5


def test_a_streamed_response(gpt: openai.OpenAI) -> None:
    with gpt.responses.stream(model="able", input="hi", temperature=0, tools=[OPENAI_TOOL]) as stream:
        events = list(stream)
        response = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert _items(response) == [("reasoning", "hm"), ("message", "Sure"), ("function_call", ARGUMENTS)]


def test_a_whole_conversation_of_responses(gpt: openai.OpenAI) -> None:
    first = gpt.responses.create(model="able", input=TALK, temperature=0, tools=[OPENAI_TOOL])
    called = next(item for item in first.output if item.type == "function_call")
    items: Any = [
        *TALK,
        *(item.model_dump(exclude_none=True) for item in first.output),
        {"type": "function_call_output", "call_id": called.call_id, "output": "sunny"},
    ]
    second = gpt.responses.create(
        model="able", input=items, temperature=0, tools=[OPENAI_TOOL], reasoning={"effort": "none"}
    )
    assert [item.type for item in second.output] == ["function_call"]
    assert second.usage
    assert first.usage
    assert second.usage.input_tokens > first.usage.input_tokens


def test_responses_without_sync(server: Server) -> None:
    async def ask() -> tuple[Any, Any]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            whole = await client.responses.create(model="able", input="hi", temperature=0, tools=[OPENAI_TOOL])
            async with client.responses.stream(model="plain", input="hi", temperature=0) as stream:
                return whole, await stream.get_final_response()

    whole, streamed = asyncio.run(ask())
    assert _items(whole) == [("reasoning", "hm"), ("function_call", ARGUMENTS)]
    assert streamed.output_text == RAW


def test_a_format_and_tools_of_other_kinds(gpt: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    layout: Any = {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}}
    others: Any = [{"type": "custom", "name": "apply_patch"}, {"type": "web_search"}]
    response = gpt.responses.create(model="plain", input="hi", text=layout, tools=others, max_output_tokens=60)
    assert json.loads(response.output_text) in ({"n": 1}, {"n": 2})
    assert response.tools == []


def test_errors_are_openais(gpt: openai.OpenAI, server: Server) -> None:
    with pytest.raises(openai.NotFoundError, match="model 'none' not found"):
        gpt.responses.create(model="none", input="hi")
    with pytest.raises(openai.BadRequestError, match="does not support thinking"):
        gpt.responses.create(model="plain", input="hi", reasoning={"effort": "high"}, stream=True)
    with pytest.raises(openai.BadRequestError, match="model is required"):
        gpt.responses.create(model="", input="hi")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("1e999", "json: cannot unmarshal number 1e999 into Go value of type float64"),
        ("[" * 240 + "]" * 240, "exceeded max depth"),
    ],
    ids=["endless", "deep"],
)
def test_what_could_not_be_written_again_is_the_callers_fault(server: Server, value: str, complaint: str) -> None:
    function = f'{{"type":"function","name":"f","parameters":{{"a":{value}}}}}'
    used = f'{{"role":"assistant","content":[{{"type":"tool_use","id":"1","name":"f","input":{{"a":{value}}}}}]}}'
    layout = f'{{"type":"json_schema","name":"n","schema":{{"type":{value}}}}}'
    for path, body in (
        ("/v1/responses", f'{{"model":"able","input":"hi","tools":[{function}]}}'),
        ("/v1/responses", f'{{"model":"able","input":"hi","stream":true,"text":{{"format":{layout}}}}}'),
        ("/v1/messages", f'{{"model":"able","max_tokens":1,"messages":[{used}]}}'),
        ("/api/show", f'{{"model":"able","options":{{"a":{value}}}}}'),
        ("/api/create", f'{{"model":"own","from":"able","parameters":{{"a":{value}}},"stream":false}}'),
    ):
        refused = server.client.post(path, content=body)
        error = refused.json()["error"]
        assert (refused.status_code, error if path.startswith("/api") else error["message"]) == (400, complaint), path


def test_bodies_may_come_compressed(server: Server) -> None:
    for path, body in (
        ("/v1/responses", {"model": "plain", "input": "hi", "max_output_tokens": 5}),
        ("/api/chat", {"model": "plain", "messages": HI, "stream": False}),
    ):
        packed = zstd.compress(json.dumps(body).encode())
        answer = server.client.post(path, content=packed, headers={"content-encoding": "zstd"})
        assert (answer.status_code, answer.json()["model"]) == (200, "plain")
        for content, encoding, why in (
            (packed, "gzip", "Content-Encoding 'gzip' is not supported: send the body uncompressed or as zstd"),
            (packed[:-1], "zstd", "failed to decompress zstd body: it is not one whole frame"),
        ):
            refused = server.client.post(path, content=content, headers={"content-encoding": encoding})
            error = refused.json()["error"]
            assert (refused.status_code, error["message"] if path.startswith("/v1") else error) == (400, why)
    bomb = zstd.compress(bytes(64 << 20))
    refused = server.client.post("/v1/responses", content=bomb, headers={"content-encoding": "zstd"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (413, "api_error")


def test_nothing_to_answer_is_an_empty_answer(server: Server) -> None:
    whole = server.post("/v1/responses", {"model": "plain", "input": ""}).json()
    assert (whole["usage"]["total_tokens"], whole["output"][0]["content"][0]["text"]) == (0, "")
    with server.client.stream("POST", "/v1/responses", json={"model": "plain", "input": "", "stream": True}) as answer:
        assert answer.headers["cache-control"] == "no-cache"
        names = [line.removeprefix("event: ") for line in answer.iter_lines() if line.startswith("event: ")]
    assert names[-1] == "response.completed"
