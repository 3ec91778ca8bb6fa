"""What a stream sends when: its status, its heartbeats, its end."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import Any

import ollama
import pytest
from starlette.types import ASGIApp, Message

from mlx_ollama.dialects.answers import Answers
from mlx_ollama.dialects.anthropic_answers import MessagesAnswers
from mlx_ollama.dialects.ollama_answers import ChatEncoder
from mlx_ollama.dialects.openai_answers import ChatEncoder as OpenAIEncoder
from mlx_ollama.dialects.responses_answers import ResponsesAnswers, ResponsesChat
from mlx_ollama.doors import refuse_of
from mlx_ollama.errors import GenerationFailed, MlxOllamaError
from mlx_ollama.policies.errors import Errors
from mlx_ollama.routes import PROMPT_CACHE_HEADER, EventStream, StreamKeepAlive
from mlx_ollama.types import Chat, Delta, Done, Event, Leased, Rendered, Usage
from tests.support.cli import import_model
from tests.support.parrot import write_parrot
from tests.support.server import Server, serving, wait_until
from tests.worker.parse.feeding import GET_W
from tests.worker.parse.tokenizers import FAMILIES

pytestmark = pytest.mark.xdist_group("streams")

PATIENCE = 0.05
END = Done("stop", Usage(1, 1, 1, 1))
CALL = Chat(model="m")

Step = Event | Leased | float | MlxOllamaError


def _sent(
    steps: Sequence[Step], answers: Answers, patience: float = PATIENCE, *, with_errors: bool = False
) -> list[Message]:
    """What goes to the client while the events come as `steps` say: numbers are seconds of silence."""
    sent: list[Message] = []

    async def events() -> AsyncGenerator[Event | Leased, None]:
        for step in steps:
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, MlxOllamaError):
                raise step
            else:
                yield step

    async def send(message: Message) -> None:
        await asyncio.sleep(0)
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nobody reads")

    async def run() -> None:
        stream: ASGIApp = EventStream(events(), answers, patience)
        # As in the list of `app.py`: errors are told by the policy.
        stream = Errors(stream, refuse_of=refuse_of) if with_errors else stream
        await stream({"type": "http", "path": "/"}, receive, send)
        assert len(asyncio.all_tasks()) <= 2, "the heart has stopped"

    asyncio.run(run())
    return sent


def _body(sent: list[Message]) -> bytes:
    assert [message["type"] for message in sent].count("http.response.start") == 1
    assert sent[0]["type"] == "http.response.start"
    assert not sent[-1].get("more_body")
    return b"".join(message.get("body", b"") for message in sent)


def test_silence_before_the_first_piece_is_broken() -> None:
    body = _body(_sent([Leased(), 0.18, Delta("a"), END], OpenAIEncoder(CALL)))
    beats, _, rest = body.partition(b"data: ")
    assert 1 <= beats.count(b": keep-alive\n\n") <= 3
    assert b'"content":"a"' in rest
    assert rest.endswith(b"data: [DONE]\n\n")


def test_silence_between_pieces_is_broken() -> None:
    body = _body(_sent([Leased(), Delta("a"), 0.08, Delta("b"), END], OpenAIEncoder(CALL)))
    assert b": keep-alive\n\n" in body
    assert body.index(b'"a"') < body.index(b": keep") < body.index(b'"b"')


def test_pieces_that_come_are_sign_enough() -> None:
    piece: list[Step] = [0.05, Delta("a")]
    steps: list[Step] = [Leased(), *piece * 12, END]
    assert b": keep-alive" not in _body(_sent(steps, OpenAIEncoder(CALL), 0.5))


def test_what_sends_nothing_is_silence() -> None:
    nothing: list[Step] = [0.02, Delta("")]
    steps: list[Step] = [Leased(), *nothing * 6, END]
    assert b": keep-alive" in _body(_sent(steps, OpenAIEncoder(CALL)))


@pytest.mark.parametrize("steps", [[0.12, Leased(), END], [0.12, Done("load")]])
def test_loading_is_waited_for_in_silence(steps: list[Step]) -> None:
    assert b": keep-alive" not in _body(_sent(steps, OpenAIEncoder(CALL)))


def test_no_patience_is_no_heartbeat() -> None:
    assert b": keep-alive" not in _body(_sent([Leased(), 0.12, END], OpenAIEncoder(CALL), 0.0))


def test_an_early_error_has_a_status_of_its_own() -> None:
    leased: list[list[Step]] = [[], [Leased()]]
    for before in leased:
        with pytest.raises(GenerationFailed):
            _sent([*before, GenerationFailed("no")], OpenAIEncoder(CALL))


def test_an_error_after_a_heartbeat_is_told_in_the_stream() -> None:
    steps: list[Step] = [Leased(), 0.08, GenerationFailed("no")]
    for answers in (OpenAIEncoder(CALL), ResponsesAnswers(ResponsesChat(model="m")), MessagesAnswers(CALL)):
        body = _body(_sent(steps, answers, with_errors=True))
        *_, last = body.rstrip().split(b"\n\n")
        assert json.loads(last.partition(b"data: ")[2])["error"]["message"] == "no"
        assert (b"event: error\n" in last) is not isinstance(answers, OpenAIEncoder)
    assert _body(_sent(steps, ChatEncoder(CALL), with_errors=True)).endswith(b'{"error":"no"}\n')


def test_an_error_in_mid_stream_is_the_references() -> None:
    steps: list[Step] = [Leased(), 0.08, Delta("a"), GenerationFailed("no")]
    chat = _body(_sent(steps, OpenAIEncoder(CALL), with_errors=True))
    assert json.loads(chat.rpartition(b"data: ")[2])["model"] == ""
    for answers in (ResponsesAnswers(ResponsesChat(model="m")), MessagesAnswers(CALL)):
        assert b"error" not in _body(_sent(steps, answers, with_errors=True)).replace(b'"error":null', b"")


def test_a_plain_answer_stays_plain() -> None:
    sent = _sent([Leased(), Rendered("p")], OpenAIEncoder(CALL))
    assert sent[0]["headers"][0] == (b"content-type", b"application/json")
    late = _body(_sent([Leased(), 0.08, Rendered("p")], OpenAIEncoder(CALL)))
    assert json.loads(late.partition(b"data: ")[2])["_debug_info"] == {"rendered_template": "p"}


def test_ollamas_heartbeat_is_an_empty_line() -> None:
    first, *_ = map(json.loads, _body(_sent([Leased(), 0.08, END], ChatEncoder(CALL))).splitlines())
    assert (first["message"], first["done"]) == ({"role": "assistant", "content": ""}, False)


def test_ollamas_streams_are_silent_unless_told() -> None:
    encoders: list[tuple[Any, float, float]] = [(ChatEncoder(CALL), 0.0, 15.0), (OpenAIEncoder(CALL), 15.0, 15.0)]
    for answers, without, told in encoders:
        assert StreamKeepAlive(15.0, ndjson=False).patience(answers) == without
        assert StreamKeepAlive(15.0, ndjson=True).patience(answers) == told


WORDS = [f"w{number} " for number in range(100)]
"""What the parrot has to say: about half a second of words, held back where they are arguments of a call."""

CALLS = ("Sure", "<tool_call>", '{"name": "get_w", "arguments": {"city": "', *WORDS, '"}}', "</tool_call>")
CUE = "<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, tiny_directory: Path) -> Iterator[Server]:
    """A server that sends heartbeats soon and everywhere, with `tiny` and a parrot that calls at length."""
    home = tmp_path_factory.mktemp("told")
    import_model(home, "tiny", tiny_directory)
    parrot = write_parrot(home / "parrot", FAMILIES["hermes"][0], CALLS, [CUE], layers=16)
    import_model(home, "parrot", parrot, "--parameter", "temperature=0")
    soon = {"MLX_API_STREAM_KEEP_ALIVE": "0.02", "MLX_API_NDJSON_KEEP_ALIVE": "1", "MLX_API_DEBUG": "1"}
    with serving(home, env=soon) as server:
        yield server


def test_a_server_told_to_send_them(told: Server) -> None:
    prompt = " ".join(f"ra{number}" for number in range(1500))
    body = {"model": "tiny", "prompt": prompt, "options": {"num_predict": 1}}
    first, *_ = told.lines("/api/generate", body)
    assert (first["response"], first["done"]) == ("", False)
    client = ollama.Client(host=told.url, trust_env=False)
    *_, last = client.generate("tiny", prompt + " so", stream=True, options={"num_predict": 1})
    assert last.done
    client._client.close()


@pytest.mark.parametrize(
    ("path", "beat"),
    [
        ("/v1/chat/completions", ": keep-alive"),
        ("/v1/messages", ": keep-alive"),
        ("/v1/responses", ": keep-alive"),
        ("/api/chat", '"content":""},"done":false'),
    ],
)
def test_a_call_that_is_held_back_is_no_silence(told: Server, path: str, beat: str) -> None:
    function = GET_W["function"]
    flat = {
        "/v1/messages": {**function, "input_schema": function["parameters"]},
        "/v1/responses": {"type": "function", **function},
    }
    asked = [{"role": "user", "content": "hi"}]
    body = {"model": "parrot", "stream": True, "messages": asked, "input": asked, "tools": [flat.get(path, GET_W)]}
    with told.client.stream("POST", path, json={**body, "max_tokens": 4000}) as response:
        lines = [line for line in response.iter_lines() if line]
    said = next(at for at, line in enumerate(lines) if "Sure" in line)
    called = next(at for at, line in enumerate(lines) if "w99 " in line)
    assert sum(beat in line for line in lines[said:called]) >= 3
    assert "<tool_call>" not in "".join(lines)


def test_a_hang_up_ends_an_answer_within_a_few_steps(told: Server) -> None:
    """What a cancelled answer had come to is remembered: so the next one tells how far that was."""
    prompt = "bada " * 60 + CUE
    body = {"model": "parrot", "prompt": prompt, "raw": True, "options": {"num_predict": 2000}}
    with told.client.stream("POST", "/api/generate", json=body) as response:
        pieces = (json.loads(line)["response"] for line in response.iter_lines())
        heard = [piece for piece, _ in zip(filter(None, pieces), range(20), strict=False)]
    wait_until(lambda: told.client.get("/health").json()["active_requests"] == 0, "the end of it")
    again = told.post("/api/generate", {**body, "prompt": prompt + "".join(CALLS), "stream": False})
    reused = again.headers[PROMPT_CACHE_HEADER].removeprefix("reused=").partition(";")[0]
    said = int(reused) - (again.json()["prompt_eval_count"] - len(CALLS))
    assert "".join(CALLS).startswith("".join(heard))
    assert len(heard) - 1 <= said <= len(heard) + 25, "how many tokens there were"
