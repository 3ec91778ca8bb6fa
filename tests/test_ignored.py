"""What nobody here heeds is named, in every dialect; a strict server refuses it."""

import json
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from mlx_ollama.doors import DECODERS
from tests.support.server import Server, serving

HEADER = "x-mlx-ollama-ignored"
HI: Any = [{"role": "user", "content": "hi"}]
FUNCTION = {"type": "function", "function": {"name": "f"}}
BODIES: dict[str, dict[str, Any]] = {
    "/api/chat": {"model": "tiny", "messages": HI, "stream": False, "options": {"num_predict": 1}},
    "/api/generate": {"model": "tiny", "prompt": "hi", "stream": False, "options": {"num_predict": 1}},
    "/api/embed": {"model": "tiny", "input": "hi"},
    "/api/embeddings": {"model": "tiny", "prompt": "hi"},
    "/api/show": {"model": "tiny"},
    "/v1/chat/completions": {"model": "tiny", "messages": HI, "max_tokens": 1},
    "/v1/completions": {"model": "tiny", "prompt": "hi", "max_tokens": 1},
    "/v1/embeddings": {"model": "tiny", "input": "hi"},
    "/v1/responses": {"model": "tiny", "input": "hi", "max_output_tokens": 1},
    "/v1/messages": {"model": "tiny", "messages": HI, "max_tokens": 1},
    "/v1/messages/count_tokens": {"model": "tiny", "messages": HI},
}
HEEDED: dict[str, list[dict[str, Any]]] = {
    "/api/chat": [{"format": "", "keep_alive": 1, "think": False, "tool_choice": None}],
    "/v1/chat/completions": [
        {"n": 1, "tool_choice": "auto", "logit_bias": {}, "parallel_tool_calls": True, "modalities": ["text"]},
        {"tool_choice": "none"},
        {"n": None, "user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "verbosity": "medium"},
        {"stream_options": {"include_usage": True, "include_obfuscation": False}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {}}}},
        {"tools": [FUNCTION], "tool_choice": "auto"},
    ],
    "/v1/completions": [{"n": 1, "echo": False, "best_of": 1, "logprobs": 0, "user": "me"}],
    "/v1/embeddings": [{"user": "me", "encoding_format": "float", "dimensions": 3}],
    "/v1/responses": [
        {"include": ["reasoning.encrypted_content"], "store": False, "prompt_cache_key": "k", "tool_choice": "auto"},
        {"include": [], "parallel_tool_calls": True, "top_logprobs": 0, "text": {"verbosity": "medium"}},
        {"background": False, "reasoning": {"effort": "low", "summary": "auto"}, "client_metadata": {}},
    ],
    "/v1/messages": [
        {"metadata": {"user_id": "u"}, "service_tier": "auto", "tool_choice": {"type": "none"}},
        {"tool_choice": {"type": "auto", "disable_parallel_tool_use": False}, "thinking": {"type": "disabled"}},
    ],
}
UNHEEDED: dict[str, list[tuple[dict[str, Any], tuple[str, ...]]]] = {
    "/api/chat": [({"tool_choice": "auto", "Temperature": 1}, ("tool_choice", "temperature"))],
    "/api/generate": [({"max_tokens": 3}, ("max_tokens",))],
    "/api/embed": [({"encoding_format": "float"}, ("encoding_format",))],
    "/api/embeddings": [({"truncate": True}, ("truncate",))],
    "/api/show": [({"tags": []}, ("tags",))],
    **{
        path: [({"modelfile": "FROM x"}, ("modelfile",))]
        for path in ("/api/create", "/api/copy", "/api/delete", "/api/pull", "/api/push")
    },
    "/v1/chat/completions": [
        ({"n": 2, "logit_bias": {"1": 2}, "tool_choice": "required"}, ("n", "logit_bias", "tool_choice")),
        ({"tools": [FUNCTION], "tool_choice": "none"}, ("tool_choice",)),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "f"}}}, ("tool_choice",)),
        ({"response_format": {"type": "grammar"}, "keep_alive": 3}, ("response_format.type", "keep_alive")),
        ({"parallel_tool_calls": False, "modalities": ["audio"]}, ("parallel_tool_calls", "modalities")),
        ({"stream_options": {"include_obfuscation": True}}, ("stream_options.include_obfuscation",)),
        ({"stream_options": {"include_usage": True, "x": 1}}, ("stream_options.x",)),
    ],
    "/v1/completions": [({"echo": True, "best_of": 2, "logprobs": 1}, ("echo", "best_of", "logprobs"))],
    "/v1/embeddings": [({"truncate": True}, ("truncate",))],
    "/v1/responses": [
        ({"previous_response_id": "r", "max_tool_calls": 1}, ("previous_response_id", "max_tool_calls")),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 2}, ("include", "top_logprobs")),
        ({"background": True, "text": {"verbosity": "low"}}, ("text.verbosity", "background")),
        ({"tools": [{"type": "web_search"}, {"type": "function", "name": "f"}]}, ("tools.web_search",)),
    ],
    "/v1/messages": [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, ("thinking.budget_tokens",)),
        ({"tool_choice": {"type": "tool", "name": "f"}, "mcp_servers": []}, ("mcp_servers", "tool_choice")),
        ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, ("tool_choice",)),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, ("tools.bash_20250124",)),
        ({"output_config": {"format": {"type": "xml"}}}, ("output_config.format.type",)),
    ],
}


def _ignored(path: str, members: dict[str, Any]) -> tuple[str, ...]:
    method = "DELETE" if path == "/api/delete" else "POST"
    return DECODERS[method, path](json.dumps({**BODIES.get(path, {}), **members}).encode(), {}).ignored


@pytest.mark.parametrize(("path", "members"), [(path, each) for path, given in HEEDED.items() for each in given])
def test_what_happens_anyway_is_not_named(path: str, members: dict[str, Any]) -> None:
    assert _ignored(path, members) == ()


@pytest.mark.parametrize(
    ("path", "members", "names"), [(path, *each) for path, given in UNHEEDED.items() for each in given]
)
def test_what_is_not_heeded_is_named(path: str, members: dict[str, Any], names: tuple[str, ...]) -> None:
    assert _ignored(path, members) == names


def test_the_last_of_several_counts() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"n":2,"N":1,"z":1,"Z":2}'
    assert DECODERS["POST", "/v1/chat/completions"](body, {}).ignored == ("z",)


@pytest.mark.parametrize("path", [path for path in BODIES if "embed" not in path])
def test_every_door_names_them(tiny: Server, path: str) -> None:
    members, names = UNHEEDED.get(path, UNHEEDED["/v1/messages"])[0]
    answer = tiny.post(path, {**BODIES[path], **members})
    assert (answer.status_code, answer.headers[HEADER]) == (200, ", ".join(names))
    assert HEADER not in tiny.post(path, BODIES[path]).headers


def test_streams_name_them_too(tiny: Server) -> None:
    answer = tiny.post("/v1/chat/completions", {**BODIES["/v1/chat/completions"], "n": 2, "stream": True})
    assert (answer.headers["content-type"], answer.headers[HEADER]) == ("text/event-stream", "n")


def test_many_and_long_names(tiny: Server) -> None:
    many = {f"{at:02}{'x' * 10_000}\r\n": at for at in range(100)}
    names = tiny.post("/v1/completions", {**BODIES["/v1/completions"], **many}).headers[HEADER].split(", ")
    assert names == [f"{at:02}" + "x" * 62 for at in range(20)]


def test_a_strict_server_refuses_them_in_the_words_of_the_dialect(tiny_home: Path) -> None:
    message = 'without effect on this server \\(MLX_API_STRICT\\): "{}"'
    with serving(tiny_home, env={"MLX_API_STRICT": "1"}) as server:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as gpt:
            assert gpt.chat.completions.create(model="tiny", messages=HI, max_tokens=1, n=1).choices
            with pytest.raises(openai.BadRequestError, match=message.format("n")) as refused:
                gpt.chat.completions.create(model="tiny", messages=HI, max_tokens=1, n=2, stream=True)
            assert refused.value.type == "invalid_request_error"
            with pytest.raises(openai.BadRequestError, match=message.format("previous_response_id")):
                gpt.responses.create(model="tiny", input="hi", previous_response_id="resp_1")
        with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as claude:
            with pytest.raises(anthropic.BadRequestError, match=message.format("thinking.budget_tokens")):
                claude.messages.create(
                    model="tiny", messages=HI, max_tokens=2000, thinking={"type": "enabled", "budget_tokens": 1024}
                )
            assert claude.messages.create(model="tiny", messages=HI, max_tokens=1).content
        refused_here = server.post("/api/chat", {**BODIES["/api/chat"], "tool_choice": "any", "options": {"tfs_z": 1}})
        told = 'without effect on this server (MLX_API_STRICT): "tool_choice", "tfs_z"'
        assert (refused_here.status_code, refused_here.json()) == (400, {"error": told})
