"""The prompt cache through the door: what a caller sees of it, and what not."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any, TypeAlias

import httpx
import pytest

from tests.support.server import Server, run_cli, serving

pytestmark = pytest.mark.xdist_group("prompt-cache")

HEADER = "x-mlx-ollama-prompt-cache"
LONG = "zuzu momo keti rara " * 30
WORDS = ("bada", "keti", "momo", "zuzu", "lele", "rara")
COUNTS = ("prompt_eval_count", "eval_count", "done_reason")
CRAMPED_BYTES = 600 << 10
"""Room for 1,200 tokens, which is two prompts of these tests: a cache that has grown has room for 256 at a time."""

OLDEST_STAY = """
class OldestStay:
    def order(self, remembered):
        return sorted(remembered, key=lambda prompt: prompt.idle_seconds)
"""


@pytest.fixture(scope="module")
def talkative(tiny_home: Path) -> Iterator[Server]:
    with serving(tiny_home, env={"MLX_API_DEBUG": "1"}) as server:
        yield server


@pytest.fixture(scope="module")
def forgetful(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Remembers nothing, and leaves prompts as they are."""
    with _another(tiny_home, tmp_path_factory, "0", MLX_API_CANONICAL="0") as server:
        yield server


@pytest.fixture(scope="module")
def cramped(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with _another(tiny_home, tmp_path_factory, str(CRAMPED_BYTES)) as server:
        yield server


@contextmanager
def _another(tiny_home: Path, folders: pytest.TempPathFactory, budget: str, **more: str) -> Iterator[Server]:
    """A server beside the others, with the same models and a budget of its own."""
    home = folders.mktemp("home") / "home"
    home.symlink_to(tiny_home)
    with serving(home, env={"MLX_API_DEBUG": "1", "MLX_API_PROMPT_CACHE_BYTES": budget, **more}) as server:
        yield server


def _body(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": text, "raw": True, "stream": False, "options": {"num_predict": 8}} | more


def _told(value: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in value.split("; "))


def test_the_header_tells_what_was_reused_and_where_prompts_part(talkative: Server) -> None:
    first = talkative.post("/api/generate", _body(LONG + "bada"))
    again = talkative.post("/api/generate", _body(LONG + "bada"))
    other = talkative.post("/api/generate", _body(LONG + "lele"))
    count = first.json()["prompt_eval_count"]
    assert _told(first.headers[HEADER])["reused"] == "0"
    assert _told(again.headers[HEADER]) == {"reused": str(count - 1)}
    told = _told(other.headers[HEADER])
    assert told["reused"] == told["differs"]
    assert told["was"] != told["now"]
    assert again.json()["response"] == first.json()["response"]
    assert again.json()["prompt_eval_count"] == count


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages", "/v1/responses"])
@pytest.mark.parametrize("stream", [True, False])
def test_it_goes_out_with_the_first_byte_and_counts_as_before(talkative: Server, path: str, *, stream: bool) -> None:
    """What is reused is told in the header alone: usage counts whole prompts, as the reference does in each dialect."""
    asked = [{"role": "user", "content": f"{LONG} {path} {stream}"}]
    limits = {"max_tokens": 6, "max_output_tokens": 6, "options": {"num_predict": 6}}
    more = {"stream_options": {"include_usage": True}} if path == "/v1/chat/completions" else {}
    body = {"model": "tiny", "messages": asked, "input": asked, "temperature": 0, "stream": stream} | limits | more
    first, again = (talkative.post(path, body) for _ in range(2))
    told = [int(_told(answer.headers[HEADER])["reused"]) for answer in (first, again)]
    assert told[1] > told[0]
    assert _usage(first) == _usage(again)
    assert told[1] + 1 in _usage(again).values(), "the tokens of the prompt"


def _usage(answer: httpx.Response) -> dict[str, Any]:
    """What an answer, or a stream's last event that has any, says of tokens."""
    *_, last = (line for line in answer.text.splitlines() if '_tokens"' in line or '_eval_count"' in line)
    told = json.loads(last.removeprefix("data: "))
    usage: dict[str, Any] = told.get("response", told).get("usage") or {name: told[name] for name in COUNTS}
    return usage


Talk: TypeAlias = tuple[list[Any], list[int]]


def _talk(server: Server, word: str, meet: Callable[[], Any] = lambda: None) -> Talk:
    """Three turns about a word: what was said, by text and counts, and how many tokens were reused."""
    messages, said, reused = [], [], []
    for turn in range(3):
        meet()
        messages.append({"role": "user", "content": f"{word} {turn} " * 20})
        body = {"model": "tiny", "messages": messages, "stream": False, "options": {"num_predict": 12}}
        answer = server.post("/api/chat", body)
        told = answer.json()
        said.append((told["message"]["content"], told["prompt_eval_count"], told["eval_count"]))
        reused.append(int(_told(answer.headers[HEADER])["reused"]))
        messages.append(told["message"])
    return said, reused


def _talks(server: Server) -> list[Talk]:
    """Conversations about all words; each turn begins when the others have had theirs."""
    meet = partial(Barrier(len(WORDS)).wait, 60)
    with ThreadPoolExecutor(len(WORDS)) as pool:
        return list(pool.map(partial(_talk, server, meet=meet), WORDS))


def test_conversations_at_once_keep_their_own_and_say_what_they_would_without(
    talkative: Server, forgetful: Server
) -> None:
    """Parallel requests do not push each other's beginnings out, and nothing of one gets into another."""
    with_it, without = _talks(talkative), _talks(forgetful)
    assert [said for said, _ in with_it] == [said for said, _ in without]
    for said, reused in with_it:
        # All of the last turn's prompt but its last few tokens, which ask for an answer.
        assert all(known > count - 8 for known, (_, count, _) in zip(reused[1:], said, strict=False)), (reused, said)
    assert all(not any(reused) for _, reused in without)


def test_conversations_that_push_each_other_out_say_what_they_would_without(cramped: Server, forgetful: Server) -> None:
    """There is room for some of them: what is read anew and what is remembered come to the same text."""
    talks = _talks(cramped)
    assert [said for said, _ in talks] == [said for said, _ in _talks(forgetful)]
    assert any(known == 0 for _, reused in talks for known in reused[1:]), "they had room"
    # Nobody else asks now: the last one is remembered.
    (said, _), (again, reused) = _talk(cramped, WORDS[0]), _talk(cramped, WORDS[0])
    assert said == again == talks[0][0]
    assert all(reused)


def test_what_is_forgotten_in_mid_answer_does_no_harm_to_it(cramped: Server, forgetful: Server) -> None:
    """An answer that began with what was remembered goes on when others have pushed that out."""
    prompt = LONG + "mimo"
    body = _body(prompt, stream=True, options={"num_predict": 600})
    whole = forgetful.lines("/api/generate", body)

    def reused() -> str:
        return _told(cramped.post("/api/generate", _body(prompt, options={"num_predict": 1})).headers[HEADER])["reused"]

    cramped.post("/api/generate", _body(prompt))
    with cramped.client.stream("POST", "/api/generate", json=body) as response:
        assert int(_told(response.headers[HEADER])["reused"]) > 100
        lines = response.iter_lines()
        first = next(lines)
        for word in WORDS[:3]:
            cramped.post("/api/generate", _body(f"{word} {LONG}", options={"num_predict": 1}))
        assert reused() == "0"
        assert cramped.client.get("/health").json()["active_requests"] == 1, "the answer is over"
        told = [json.loads(line) for line in (first, *lines)]
    assert "".join(line["response"] for line in told) == "".join(line["response"] for line in whole)
    assert [told[-1][name] for name in COUNTS] == [whole[-1][name] for name in COUNTS]


def test_a_billing_header_does_not_spoil_what_is_remembered(talkative: Server) -> None:
    def ask(checksum: str) -> dict[str, str]:
        billed = f"x-anthropic-billing-header: cc_version=2.1.37; cc_entrypoint=cli; cch={checksum};"
        system = [{"type": "text", "text": text} for text in (billed, f"You are kind. {LONG}")]
        messages = [{"role": "user", "content": "bada"}]
        body = {"model": "tiny", "max_tokens": 4, "system": system, "messages": messages}
        return dict(talkative.post("/v1/messages", body).headers)

    told = [ask(checksum) for checksum in ("00abc", "f1234")]
    assert [headers["x-mlx-ollama-canonical"] for headers in told] == ["removed x-anthropic-billing-header"] * 2
    assert "differs" not in told[1][HEADER]
    assert int(_told(told[1][HEADER])["reused"]) > 100


def test_a_server_told_to_leave_prompts_alone_does(talkative: Server, forgetful: Server) -> None:
    system = "x-anthropic-billing-header: cc_version=2.1.37; cch=00abc;\nYou are kind."
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "bada"}]
    body = {"model": "tiny", "messages": messages, "stream": False, "_debug_render_only": True}
    cleaned, left = (server.post("/api/chat", body) for server in (talkative, forgetful))
    assert "billing" not in cleaned.json()["_debug_info"]["rendered_template"]
    assert system in left.json()["_debug_info"]["rendered_template"]
    assert ["x-mlx-ollama-canonical" in answer.headers for answer in (cleaned, left)] == [True, False]


def test_nobody_is_told_who_did_not_ask(tiny: Server) -> None:
    assert HEADER not in tiny.post("/api/generate", _body(LONG)).headers


def test_nothing_is_remembered_without_a_budget(forgetful: Server) -> None:
    told = [forgetful.post("/api/generate", _body(LONG)).headers[HEADER] for _ in range(2)]
    assert told == ["reused=0"] * 2


def test_a_chooser_of_ones_own_decides(tiny_home: Path, tmp_path: Path) -> None:
    for part in tiny_home.iterdir():
        (tmp_path / part.name).symlink_to(part)
    (tmp_path / "ours.py").write_text(OLDEST_STAY)
    own = {"MLX_API_DEBUG": "1", "MLX_API_PROMPT_CACHE_CHOOSER": "ours:OldestStay"}
    with serving(tmp_path, env={"MLX_API_PROMPT_CACHE_BYTES": str(CRAMPED_BYTES), **own}) as server:

        def reused(word: str) -> bool:
            told = server.post("/api/generate", _body(f"{word} {LONG}", options={"num_predict": 1}))
            return int(_told(told.headers[HEADER])["reused"]) > 100

        assert [reused(word) for word in WORDS[:3]] == [False] * 3
        # Ours to go last: by the usual order it would have gone first.
        assert (reused(WORDS[0]), reused(WORDS[1])) == (True, False)


def test_a_chooser_that_there_is_not_is_an_error(tiny_home: Path) -> None:
    with serving(tiny_home, env={"MLX_API_PROMPT_CACHE_CHOOSER": "absent:Class"}) as server:
        refused = server.post("/api/generate", _body(LONG))
    assert refused.status_code == 500
    assert "MLX_API_PROMPT_CACHE_CHOOSER: absent:Class cannot be used" in refused.text
    made = run_cli("config", env={"MLX_API_PROMPT_CACHE_CHOOSER": "nothing"})
    assert made.returncode
    assert "not of the form package.module:Class" in made.stderr
