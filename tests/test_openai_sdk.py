"""The genuine `openai` package against a live server."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pydantic
import pytest

from tests.support.cli import import_model
from tests.support.embedders import write_tiny_encoder
from tests.support.parrot import write_parrot
from tests.support.server import Server, serving
from tests.worker.parse.tokenizers import FAMILIES

pytestmark = pytest.mark.xdist_group("openai-sdk")

ANSWER = (
    "<think>",
    "h",
    "m",
    "</think>",
    "Sure",
    "<tool_call>",
    '{"name": "get_w", "arguments": {"n": 3}}',
    "</tool_call>",
)
HI: list[Any] = [{"role": "user", "content": "hi"}]
PARAMETERS = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
TOOL: Any = {"type": "function", "function": {"name": "get_w", "description": "weather", "parameters": PARAMETERS}}
SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "n",
        "strict": True,
        "schema": {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]},
    },
}
USAGE: Any = {"include_usage": True}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_directory: Path) -> Path:
    """`parrot` thinks, speaks and calls; `tiny` babbles; `bert` embeds."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("models")
    made = {
        "parrot": write_parrot(folder / "parrot", FAMILIES["qwen3"][0], ANSWER, ["<|im_start|>assistant\n"]),
        "tiny": tiny_directory,
        "bert": write_tiny_encoder(folder / "bert", longest=20),
    }
    for name, directory in made.items():
        import_model(home, name, directory)
    return home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    with serving(home) as server:
        yield server


@pytest.fixture(scope="module")
def impatient(home: Path) -> Iterator[Server]:
    """One that says after a few milliseconds that it lives."""
    with serving(home, env={"MLX_API_STREAM_KEEP_ALIVE": "0.02"}) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=HI, temperature=0, seed=1, max_completion_tokens=5)
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model, answer.system_fingerprint) == ("chat.completion", "tiny", "fp_ollama")
    (choice,) = answer.choices
    assert choice.finish_reason == "length"
    assert choice.message.content
    assert answer.usage
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5


def test_a_chat_streamed(client: openai.OpenAI) -> None:
    given: dict[str, Any] = {"model": "tiny", "messages": HI, "temperature": 0, "max_tokens": 8}
    whole = client.chat.completions.create(**given)
    chunks = list(client.chat.completions.create(**given, stream=True, stream_options=USAGE))
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1
    *pieces, usage = chunks
    assert (usage.choices, usage.usage) == ([], whole.usage)
    assert not any(chunk.usage for chunk in pieces)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == whole.choices[0].message.content
    assert [chunk.choices[0].delta.role for chunk in pieces] == ["assistant"] + [None] * (len(pieces) - 1)
    assert [chunk.choices[0].finish_reason for chunk in pieces] == [None] * (len(pieces) - 1) + ["length"]


def test_thinking_and_tools(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="parrot", messages=HI, tools=[TOOL], temperature=0)
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert (message.content, message.model_extra) == ("Sure", {"reasoning": "hm"})
    assert message.tool_calls
    (call,) = message.tool_calls
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_w", {"n": 3})
    talk: list[Any] = [*HI, message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    again = client.chat.completions.create(model="parrot", messages=talk, tools=[TOOL], temperature=0)
    assert again.choices[0].message.content == "Sure"


def test_thinking_and_tools_streamed(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="parrot", messages=HI, tools=[TOOL], temperature=0) as stream:
        events = list(stream)
        whole = stream.get_final_completion()
    assert whole.choices[0].finish_reason == "tool_calls"
    assert whole.choices[0].message.content == "Sure"
    assert whole.choices[0].message.tool_calls
    assert json.loads(whole.choices[0].message.tool_calls[0].function.arguments) == {"n": 3}
    deltas = [event.chunk.choices[0].delta for event in events if event.type == "chunk"]
    assert "".join((delta.model_extra or {}).get("reasoning", "") for delta in deltas) == "hm"


def test_effort(client: openai.OpenAI) -> None:
    for effort in ("none", "low"):
        answer = client.chat.completions.create(
            model="parrot", messages=HI, temperature=0, reasoning_effort=effort, max_tokens=20
        )
        thought = "reasoning" in (answer.choices[0].message.model_extra or {})
        assert thought == (effort == "low")
    with pytest.raises(openai.BadRequestError, match='"tiny" does not support thinking'):
        client.chat.completions.create(model="tiny", messages=HI, reasoning_effort="high")


@pytest.mark.parametrize("model", ["tiny", "parrot"])
def test_json_schema(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=HI, response_format=SCHEMA, max_tokens=60)
    assert json.loads(answer.choices[0].message.content or "") in ({"n": 1}, {"n": 2})
    free: Any = {"type": "json_object"}
    chunks = client.chat.completions.create(model=model, messages=HI, response_format=free, max_tokens=9, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text.startswith("{") or model == "parrot"


class Number(pydantic.BaseModel):
    n: Literal[1, 2]


def test_parsed_answers(client: openai.OpenAI, server: Server) -> None:
    given: Any = {"model": "tiny", "messages": HI, "max_tokens": 60}
    whole = client.chat.completions.parse(**given, response_format=Number)
    assert isinstance(whole.choices[0].message.parsed, Number)
    with client.chat.completions.stream(**given, response_format=Number) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Number)
    asked: Any = {"model": "tiny", "input": "hi", "max_output_tokens": 60, "text_format": Number}
    assert isinstance(client.responses.parse(**asked).output_parsed, Number)
    with client.responses.stream(**asked) as events:
        assert isinstance(events.get_final_response().output_parsed, Number)

    async def ask() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as gpt:
            return (await gpt.responses.parse(**asked)).output_parsed

    assert isinstance(asyncio.run(ask()), Number)


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=HI, max_tokens=3, logprobs=True, top_logprobs=2)
    assert answer.choices[0].logprobs
    entries = answer.choices[0].logprobs.content or []
    assert len(entries) == 3
    assert all(len(entry.top_logprobs) == 2 for entry in entries)


def test_completions(client: openai.OpenAI) -> None:
    given: dict[str, Any] = {"model": "tiny", "prompt": "ra", "temperature": 0, "max_tokens": 6}
    whole = client.completions.create(**given)
    chunks = list(client.completions.create(**given, stream=True, stream_options=USAGE))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage
    assert [choice.finish_reason for chunk in chunks[-2:] for choice in chunk.choices] == ["length"]


def test_embeddings(client: openai.OpenAI, server: Server) -> None:
    packed = client.embeddings.create(model="bert", input=["ba be", ""])
    plain = client.embeddings.create(model="bert", input=["ba be", ""], encoding_format="float")
    native = server.post("/api/embed", {"model": "bert", "input": ["ba be", ""]}).json()
    for at in range(2):
        assert packed.data[at].embedding == pytest.approx(plain.data[at].embedding, abs=1e-7)
        assert plain.data[at].embedding == native["embeddings"][at]
    assert packed.usage.prompt_tokens == native["prompt_eval_count"]
    assert len(client.embeddings.create(model="bert", input="ba", dimensions=3).data[0].embedding) == 3
    with pytest.raises(openai.BadRequestError, match="invalid input type"):
        client.embeddings.create(model="bert", input=[1, 2])
    with pytest.raises(openai.InternalServerError) as raised:
        client.embeddings.create(model="tiny", input="a")
    assert raised.value.status_code == 501


def test_models(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"tiny:latest", "parrot:latest", "bert:latest"}
    for name in ("tiny", "tiny:latest"):
        assert client.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError, match="model 'nope:latest' not found"):
        client.models.retrieve("nope")


def test_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nope", messages=HI, stream=True)
    assert missing.value.body == {
        "message": "model 'nope' not found",
        "type": "not_found_error",
        "param": None,
        "code": None,
    }
    with pytest.raises(openai.BadRequestError, match="does not support tools"):
        client.chat.completions.create(model="tiny", messages=HI, tools=[TOOL])
    image: list[Any] = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]
    with pytest.raises(openai.BadRequestError, match="does not support image input"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": image}])


def test_a_recording_is_refused_as_by_a_model_without_ears(client: openai.OpenAI) -> None:
    recording = ("a.wav", b"RIFFxxxxWAVEfmt ")
    with pytest.raises(openai.BadRequestError, match="this model does not support audio input") as refused:
        client.audio.transcriptions.create(model="tiny", file=recording)
    assert refused.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError, match="model 'nope' not found"):
        client.audio.transcriptions.create(model="nope", file=recording, response_format="text")
    with pytest.raises(openai.BadRequestError, match="audio file is empty"):
        client.audio.transcriptions.create(model="tiny", file=("a.wav", b""))
    part: Any = {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}
    with pytest.raises(openai.BadRequestError, match="this model does not support audio input"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": [part]}])


def test_async_and_at_once(server: Server) -> None:
    async def ask(client: openai.AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(
            model="tiny", messages=HI, temperature=0, max_tokens=8, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            whole = await client.chat.completions.create(model="tiny", messages=HI, temperature=0, max_tokens=8)
            return [whole.choices[0].message.content or "", *await asyncio.gather(*(ask(client) for _ in range(4)))]

    assert len(set(asyncio.run(ask_all()))) == 1


def test_a_long_prompt_is_no_silence(impatient: Server) -> None:
    long = " ".join(f"ra{number}" for number in range(1500))
    body = {"model": "tiny", "messages": [{"role": "user", "content": long}], "max_tokens": 2, "stream": True}
    text = impatient.post("/v1/chat/completions", body).text
    assert text.startswith(": keep-alive\n\n")
    assert text.endswith("data: [DONE]\n\n")
    talk: list[Any] = [{"role": "user", "content": long + " so"}]
    with openai.OpenAI(base_url=f"{impatient.url}/v1", api_key="none", max_retries=0) as client:
        chunks = list(client.chat.completions.create(model="tiny", messages=talk, max_tokens=2, stream=True))
    assert chunks[-1].choices[0].finish_reason == "length"
    lines = impatient.lines("/api/chat", {**body, "options": {"num_predict": 2}})
    assert all(line["message"]["content"] for line in lines[:-1]), "not on Ollama's own streams"


def test_the_path_of_a_model(server: Server) -> None:
    assert server.client.get("/v1/models/a%2Fb").text == "404 page not found"
    assert server.client.get("/v1/models/tiny%3Alatest").json()["id"] == "tiny:latest"
    assert server.client.post("/v1/models/tiny").headers["allow"] == "GET"
    assert server.client.get("/v1/models/tiny/", follow_redirects=False).headers["location"] == "/v1/models/tiny"
    odd = server.client.get("/v1/models/%3Cb%3E%0D%0A%E2%82%AC/", follow_redirects=False)
    assert (odd.status_code, odd.headers["location"]) == (301, "/v1/models/%3Cb%3E%0D%0A%E2%82%AC")
    assert "<b>" not in odd.text
    preflight = server.client.options("/v1/models/tiny", headers={"origin": "http://localhost"})
    assert preflight.headers["allow"] == "GET"


def test_a_prompt_only_rendered(server: Server) -> None:
    for stream in (False, True):
        body = {"model": "tiny", "messages": HI, "_debug_render_only": True, "stream": stream}
        answer = server.post("/v1/chat/completions", body)
        assert answer.headers["content-type"] == "application/json"
        assert "hi" in answer.json()["_debug_info"]["rendered_template"]
