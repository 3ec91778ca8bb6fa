"""Genuine JavaScript clients against a live server: Vercel's `ai` with an Ollama provider, and the `ollama` package."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import import_model
from tests.support.embedders import write_tiny_encoder
from tests.support.parrot import write_parrot
from tests.support.server import Server, clean_environment, serving, wait_until
from tests.support.tiny import write_tiny_model
from tests.worker.parse.tokenizers import FAMILIES

CLIENTS = Path(__file__).parent / "clients"
NODE = shutil.which("node") or ""
OLDEST_NODE = 20


def _missing() -> str:
    if not NODE:
        return "node"
    version = subprocess.run([NODE, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    if int(version.strip().removeprefix("v").partition(".")[0] or 0) < OLDEST_NODE:
        return f"node {OLDEST_NODE} or later"
    return "" if (CLIENTS / "node_modules" / "ai").is_dir() else "`npm ci --prefix tests/clients`"


pytestmark = [
    pytest.mark.skipif(bool(MISSING := _missing()), reason=f"the JavaScript clients want {MISSING}"),
    pytest.mark.xdist_group("javascript-clients"),
]

CALL = '{"name": "get_w", "arguments": {"n": 3}}'
ANSWER = ("<think>", "h", "m", "</think>", "Sure", "<tool_call>", CALL, "</tool_call>")
HI = [{"role": "user", "content": "hi"}]
NUMBERS = ({"n": 1}, {"n": 2})
# What a tool has said comes last in the prompt, so that the answer shows whether the model has seen it.
TEMPLATE = FAMILIES["qwen3"][0] + "{% if messages[-1].role == 'tool' %}{{ messages[-1].content }}{% endif %}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_directory: Path) -> Iterator[Server]:
    """`parrot` thinks, calls, and says what a tool told it; `tiny` and `endless` babble; `bert` embeds."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("models")
    sunny = {"sunny": ("It", " is", " sunny")}
    made = {
        "parrot": write_parrot(folder / "parrot", TEMPLATE, ANSWER, ["<|im_start|>assistant\n"], others=sunny),
        "tiny": tiny_directory,
        "endless": write_tiny_model(folder / "endless", context=100_000),
        "bert": write_tiny_encoder(folder / "bert", longest=20),
    }
    for name, directory in made.items():
        import_model(home, name, directory)
    with serving(home) as server:
        yield server


def _command(server: Server, case: str) -> list[str]:
    return [NODE, str(CLIENTS / "run.mjs"), server.url, case]


def _answer(server: Server, case: str) -> dict[str, Any]:
    """What the script says of a case; whatever a client warns about is a failure."""
    done = subprocess.run(
        _command(server, case),
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _result(server: Server, case: str) -> Any:
    answer = _answer(server, case)
    assert "result" in answer, answer
    return answer["result"]


def _said(server: Server) -> dict[str, Any]:
    """What `tiny` says of itself to `hi`, asked without any client."""
    options = {"num_predict": 8, "temperature": 0}
    answer: dict[str, Any] = server.post(
        "/api/chat", {"model": "tiny", "messages": HI, "options": options, "stream": False}
    ).json()
    return answer


def test_ai_text(server: Server) -> None:
    expected = _said(server)
    (whole,) = _result(server, "ai text")
    streamed = _result(server, "ai streamed text")
    assert (whole["text"], whole["finish"]) == (expected["message"]["content"], "length")
    assert whole["usage"] == [expected["prompt_eval_count"], 8]
    assert streamed["steps"] == [whole]
    assert len(streamed["pieces"]) > 1
    assert "".join(streamed["pieces"]) == whole["text"]


@pytest.mark.parametrize("case", ["ai tool", "ai streamed tool"])
def test_ai_tool(server: Server, case: str) -> None:
    asking, answering = _result(server, case)
    assert (asking["reasoning"], asking["text"], asking["finish"]) == ("hm", "Sure", "tool-calls")
    assert (asking["calls"], asking["results"]) == ([["get_w", {"n": 3}]], ["sunny"])
    assert (answering["text"], answering["finish"], answering["calls"]) == ("It is sunny", "stop", [])
    assert answering["usage"][0] > asking["usage"][0]


def test_ai_object(server: Server) -> None:
    assert _result(server, "ai object") in NUMBERS
    streamed = _result(server, "ai streamed object")
    assert streamed["whole"] in NUMBERS
    assert streamed["partial"][-1] == streamed["whole"]


def test_embeddings(server: Server) -> None:
    expected = server.post("/api/embed", {"model": "bert", "input": ["ba be", "bi"]}).json()
    of_ai = _result(server, "ai embeddings")
    assert (of_ai["embeddings"], of_ai["tokens"]) == (expected["embeddings"], expected["prompt_eval_count"])
    assert _result(server, "ollama embed")["embeddings"] == expected["embeddings"]


def test_ollama_chat(server: Server) -> None:
    expected = _said(server)
    whole = _result(server, "ollama chat")
    *pieces, last = _result(server, "ollama streamed chat")
    told = ("model", "done", "done_reason", "prompt_eval_count", "eval_count")
    assert whole["message"] == expected["message"]
    assert [whole[name] for name in told] == [last[name] for name in told] == [expected[name] for name in told]
    assert "".join(piece["message"]["content"] for piece in pieces) == whole["message"]["content"]
    assert not any(piece["done"] for piece in pieces)


def test_ollama_generate(server: Server) -> None:
    answer = _result(server, "ollama generate")
    whole, (*pieces, last) = answer["whole"], answer["parts"]
    assert whole["response"] == "".join(piece["response"] for piece in pieces)
    assert (whole["done_reason"], whole["context"]) == (last["done_reason"], last["context"])


def test_ollama_tool(server: Server) -> None:
    asking, answering = _result(server, "ollama tool")
    assert (asking["thinking"], asking["content"]) == ("hm", "Sure")
    assert [call["function"] for call in asking["tool_calls"]] == [{"index": 0, "name": "get_w", "arguments": {"n": 3}}]
    assert answering == {"role": "assistant", "content": "It is sunny"}
    messages = [part["message"] for part in _result(server, "ollama streamed tool")]
    assert "".join(message.get("thinking", "") for message in messages) == "hm"
    assert "".join(message["content"] for message in messages) == "Sure"
    (call,) = [call for message in messages for call in message.get("tool_calls", ())]
    assert call["function"] == asking["tool_calls"][0]["function"]


def test_ollama_format(server: Server) -> None:
    assert _result(server, "ollama format") in NUMBERS


def test_ollama_models(server: Server) -> None:
    _said(server)
    answer = _result(server, "ollama models")
    assert set(answer["list"]) == {"parrot:latest", "tiny:latest", "endless:latest", "bert:latest"}
    assert answer["show"] == ["completion", "tools", "thinking"]
    assert "tiny:latest" in answer["running"]
    assert answer["version"] == server.client.get("/api/version").json()["version"]


def test_a_missing_model(server: Server) -> None:
    error = _answer(server, "ollama missing model")["error"]
    assert error == {"name": "ResponseError", "message": "model 'nope' not found", "status": 404}
    # The provider knows errors only in OpenAI's shape, so it has no words for Ollama's own.
    error = _answer(server, "ai missing model")["error"]
    assert (error["name"], error["status"]) == ("AI_APICallError", 404)


@pytest.mark.parametrize("case", ["ai abort", "ollama abort"])
def test_an_abort_ends_the_answer(server: Server, case: str) -> None:
    def ended() -> int:
        return server.log.read_text().count("POST /api/chat 200")

    def idle() -> bool:
        return all(worker.cpu_percent(0.2) < 20 for worker in server.workers())

    before = ended()
    process = subprocess.Popen(
        _command(server, case), env=clean_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout
            answer = json.loads(process.stdout.readline())
            wait_until(lambda: ended() > before, "the end of the answer", 10)
            wait_until(idle, "rest", 10)
            assert process.poll() is None, "the client is still there: it was the abort that ended the answer"
        finally:
            process.kill()
    if case == "ollama abort":
        assert answer["error"]["name"] == "AbortError"
    else:
        assert answer["result"][-1] == "abort"
        assert "finish" not in answer["result"]
