"""What speaks with a server: run in all its ways, ps, stop, --version."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlx_ollama import __version__
from tests.support.cli import Cli
from tests.support.server import Server, clean_environment, run_cli, serving, wait_until
from tests.support.terminal import Terminal, terminal

pytestmark = pytest.mark.xdist_group("cli-run")

THOUGHT = "Thinking...\nhm\n...done thinking.\n\n"
ANSWER = THOUGHT + "Sure thing\n\n"
PROMPT = ">>> "


@pytest.fixture(scope="module")
def server(speakers_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # A copy: what a test saves is of no use to others.
    home = Path(shutil.copytree(speakers_home, tmp_path_factory.mktemp("talk") / "home"))
    with serving(home) as server:
        yield server


def settings(server: Server) -> dict[str, str]:
    return {"MLX_API_PORT": str(server.port), "MLX_API_HOME": str(server.home)}


@pytest.fixture
def cli(server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(capsys, monkeypatch, server.home, settings(server))


@pytest.fixture
def talk(server: Server) -> Iterator[Terminal]:
    """`run parrot` in a terminal, at its first prompt."""
    command = [sys.executable, "-m", "mlx_ollama", "run", "parrot"]
    with terminal(command, columns=60, env=settings(server)) as talk:
        talk.expect(PROMPT)
        yield talk


def test_one_answer(cli: Cli, server: Server) -> None:
    done = cli("run", "parrot", "hi", "there")
    assert (done.status, done.out, done.err) == (0, ANSWER, "")


def test_flags_stand_anywhere(cli: Cli, server: Server) -> None:
    done = cli("run", "parrot", "--hidethinking", "hi", "--verbose", "there", "--keepalive", "10m")
    assert (done.status, done.out) == (0, "Sure thing\n\n")
    names = [line.partition(":")[0] for line in done.err.splitlines()]
    assert names[0] == "total duration"
    assert names[-1] == "eval rate"
    assert "9 minutes from now" in cli("ps", "parrot").out


def test_think_takes_its_level_after_an_equals_sign(cli: Cli, server: Server) -> None:
    assert cli("run", "--think", "parrot", "hi").out == ANSWER
    assert cli("run", "--think=false", "parrot", "hi").out == "<think>hm</think>Sure thing\n\n"


def test_a_pipe_stands_before_the_words(cli: Cli, server: Server) -> None:
    """The prompt's tokens tell: the same text is as long, whichever way it came."""

    def tokens(*words: str, typed: str) -> str:
        told = cli("run", "parrot", *words, "--verbose", typed=typed).err
        return next(line for line in told.splitlines() if line.startswith("prompt eval count"))

    assert tokens("and more words", typed="") != tokens(typed="some text")
    assert tokens("some text and more words", typed="") == tokens("and more words", typed="some text")


def test_an_empty_prompt_loads(cli: Cli, server: Server) -> None:
    cli("stop", "parrot")
    done = cli("run", "parrot")
    assert (done.status, done.out.strip()) == (0, "")
    assert "parrot:latest" in cli("ps").out


def test_a_format_is_kept(cli: Cli, server: Server) -> None:
    schema = json.dumps({"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]})
    done = cli("run", "endless", "hi", "--format", schema)
    assert json.loads(done.out) in ({"n": 1}, {"n": 2})


def test_vectors(cli: Cli, server: Server) -> None:
    expected = server.post("/api/embed", {"model": "bert", "input": "ba be"}).json()["embeddings"][0]
    assert json.loads(cli("run", "bert", "ba", "be").out) == expected
    assert json.loads(cli("run", "bert", typed="ba be").out) == expected
    assert len(json.loads(cli("run", "bert", "--dimensions", "4", "ba be").out)) == 4
    too_long = cli("run", "bert", "ba " * 200, "--truncate=false")
    assert (too_long.status, too_long.err) == (1, "Error: the input length exceeds the context length\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "nope", "hi"), "model 'nope:latest' not found; `mlx-ollama list` shows what there is"),
        (("run", "bert"), "bert makes vectors of texts; give it one: mlx-ollama run bert 'some words'"),
        (("run", "tiny", "hi", "--think"), '"tiny" does not support thinking'),
        (("run", "parrot", "hi", "--think=deep"), "--think deep: must be true, false, high, medium, low or max"),
        (("run", "parrot", "hi", "--format", "xml"), "--format xml: neither json nor a JSON schema"),
        (("run", "parrot", "hi", "--keepalive", "long"), '--keepalive: time: invalid duration "long"'),
        (("run", "parrot", "hi", "--truncate=perhaps"), "--truncate perhaps: must be true or false"),
        (("stop", "nope"), "couldn't find model 'nope' to stop"),
    ],
)
def test_what_cannot_be(cli: Cli, server: Server, arguments: tuple[str, ...], message: str) -> None:
    done = cli(*arguments)
    assert done.status == 1
    assert done.err.startswith(f"Error: {message}")


@pytest.mark.parametrize("arguments", [("run", "parrot", "hi"), ("ps",), ("stop", "parrot")])
def test_no_server(arguments: tuple[str, ...]) -> None:
    done = run_cli(*arguments, "--host", "0.0.0.0", "--port", "1")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: no server answers at http://127.0.0.1:1; start one with `mlx-ollama serve`")


def test_the_server_can_be_named(cli: Cli, server: Server) -> None:
    elsewhere = replace(cli, settings={})
    assert elsewhere("ps").status == 1
    assert elsewhere("ps", "--host", server.host, "--port", str(server.port)).status == 0


def test_a_server_that_asks_for_keys(cli: Cli, server: Server, tmp_path: Path) -> None:
    with serving(server.home, env={"MLX_API_KEYS": "open,sesame"}) as guarded:
        port = {"MLX_API_PORT": str(guarded.port)}
        assert replace(cli, settings=port).refused("ps").startswith("Error: ")
        assert replace(cli, settings=port | {"MLX_API_KEYS": "sesame"}).ok("ps").startswith("NAME")


def test_bad_usage(cli: Cli) -> None:
    for arguments in (("run", "parrot", "hi", "--bogus"), ("ps", "a", "b"), ("stop",)):
        with pytest.raises(SystemExit, match="2"):
            cli(*arguments)


def test_ps_and_stop(cli: Cli) -> None:
    cli("run", "tiny", "")
    heading, row = cli.ok("ps", "TI").splitlines()
    assert heading.split() == ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]
    assert row.split()[:2] == cli.ok("list", "tiny").splitlines()[1].split()[:2]
    assert "    100% CPU     4096       4 minutes from now" in row
    assert cli.ok("stop", "tiny") == ""
    wait_until(lambda: "tiny" not in cli.ok("ps"), "the unloading")


def test_version(server: Server) -> None:
    told = run_cli("--version", env=settings(server)).stdout
    assert told == f"mlx-ollama {__version__}\nthe server at {server.url} speaks the API of Ollama 0.33.0\n"
    alone = run_cli("-v", env={"MLX_API_PORT": "1"})
    assert alone.stdout == f"mlx-ollama {__version__}\n"
    assert alone.stderr == "warning: no server answers at http://127.0.0.1:1\n"


@pytest.fixture
def endless(server: Server) -> Iterator["subprocess.Popen[bytes]"]:
    """`run endless hi`, while it says something."""
    with subprocess.Popen(
        [sys.executable, "-m", "mlx_ollama", "run", "endless", "hi"],
        env=clean_environment() | settings(server),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stdout.read(20)
        yield process


def test_ctrl_c_ends_one_answer_that_was_asked_for(server: Server, endless: "subprocess.Popen[bytes]") -> None:
    endless.send_signal(signal.SIGINT)
    _, told = endless.communicate(timeout=60)
    assert (endless.returncode, told) == (130, b"")
    wait_until(lambda: all(worker.cpu_percent(0.2) < 20 for worker in server.workers()), "rest", 20)


def test_a_reader_that_leaves_is_no_fault(endless: "subprocess.Popen[bytes]") -> None:
    assert endless.stdout
    assert endless.stderr
    endless.stdout.close()
    assert endless.stderr.read() == b""
    assert endless.wait(60) == 1


def test_a_conversation(talk: Terminal, server: Server) -> None:
    assert "Send a message (/? for help)" in talk.text
    assert ANSWER in talk.line("hi")
    assert "No system message was specified for this model." in talk.line("/show system")
    talk.line('/set system """Be', until="... ")
    assert "Set system message." in talk.line('kind."""')
    assert "\nBe\nkind.\n" in talk.line("/show system")
    assert "Set parameter 'stop' to 'x, y'" in talk.line("/set parameter stop x y")
    assert "Set parameter 'temperature' to '0.5'" in talk.line("/set parameter temperature 0.5")
    assert 'Couldn\'t set parameter: "invalid int value [x]"' in talk.line("/set parameter top_k x")
    assert "Couldn't set parameter: \"unknown parameter 'nope'\"" in talk.line("/set parameter nope 1")
    shown = talk.line("/show parameters")
    assert "  No additional parameters were specified" in shown
    assert "  stop                           [x y]\n  temperature                    0.5\n" in shown
    assert "Set 'verbose' mode." in talk.line("/set verbose")
    assert "\neval rate:" in talk.line("hi")
    assert "Set 'quiet' mode." in talk.line("/set quiet")
    assert "Set 'nothink' mode." in talk.line("/set nothink")
    assert "\n<think>hm</think>Sure thing\n\n" in talk.line("hi")
    assert "Created new model 'kept'" in talk.line("/save kept")
    kept = server.post("/api/show", {"model": "kept"}).json()
    assert kept["system"] == "Be\nkind."
    assert kept["parameters"].split() == ["stop", '"x"', "stop", '"y"', "temperature", "0.5"]
    assert [message["role"] for message in kept["messages"]] == ["user", "assistant"] * 3
    assert kept["messages"][1]["content"] == "Sure thing"
    talk.line("/bye", until="/bye")
    assert talk.ended() == 0


def test_what_others_wrote_cannot_steer_the_terminal_of_a_conversation(talk: Terminal, server: Server) -> None:
    rude = "\x1b]0;stolen\x07b\x9b1Ae"
    said = [{"role": "user", "content": rude}, {"role": "assistant", "content": f"{rude}\twell"}]
    texts = {"messages": said, "system": rude, "license": rude, "template": f"{rude}{{{{ .Prompt }}}}"}
    server.post("/api/create", {"model": "rude", "from": "parrot", "stream": False, **texts})
    plain = "]0;stolenb1Ae"
    assert f">>> {plain}\n{plain}\twell\n\n" in talk.line("/load rude", until="well\n\n>>> ")
    for part in ("info", "license", "modelfile", "system", "template"):
        assert plain in talk.line(f"/show {part}")
    talk.line(f"/load {'no' * 3}")
    assert "\x1b]" not in talk.seen
    assert "\x9b" not in talk.seen


def test_a_kept_conversation_goes_on(talk: Terminal, server: Server) -> None:
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "well"}]
    server.post("/api/create", {"model": "going", "from": "parrot", "messages": messages, "stream": False})
    talk.line("hi")
    loaded = talk.line("/load going", until="well\n\n>>> ")
    assert "Loading model 'going'" in loaded
    assert ">>> hello\nwell\n\n" in loaded
    talk.line("more")
    talk.line("/save farther")
    kept = server.post("/api/show", {"model": "farther"}).json()
    assert [message["content"] for message in kept["messages"]] == ["hello", "well", "more", "Sure thing"]
    assert "Couldn't find model 'nope'" in talk.line("/load nope")
    assert "Sure thing" in talk.line("hi"), "it goes on as it was"
    assert "Cleared session context" in talk.line("/clear")
    talk.line("one")
    talk.line("/save short")
    assert len(server.post("/api/show", {"model": "short"}).json()["messages"]) == 4


def test_what_can_be_shown_and_set(talk: Terminal) -> None:
    assert "/set parameter" in talk.line("/? /set")
    assert "/show modelfile" in talk.line("/show")
    assert "  /bye" in talk.line("/?")
    assert "  /bye" in talk.line("/help")
    assert "  /set parameter num_ctx <int>" in talk.line("/set parameter")
    assert "    architecture        llama\n" in talk.line("/show info")
    assert "No license was specified for this model." in talk.line("/show license")
    assert "# Modelfile generated by" in talk.line("/show modelfile")
    assert "<|im_start|>" in talk.line("/show template")
    assert "parrot:latest" in talk.line("/list")
    for switch in ("wordwrap", "nowordwrap", "think"):
        assert f"Set '{switch}' mode." in talk.line(f"/set {switch}")
    assert "Set 'think' mode to 'low'." in talk.line("/set think low")
    assert "Unknown level 'deep'" in talk.line("/set think deep")
    assert "Set format to 'json' mode." in talk.line("/set format json")
    assert "Invalid or missing format." in talk.line("/set format xml")
    assert "Disabled format." in talk.line("/set noformat")
    for unknown in ("/nope", "/set nope", "/show nope"):
        assert f"Unknown command '{unknown}'. Type /? for help" in talk.line(unknown)
    assert "Usage:" in talk.line("/load")
    assert "Usage:" in talk.line("/save")
    assert "Couldn't save model: invalid model name" in talk.line("/save bad name!")


def test_a_message_of_several_lines(talk: Terminal) -> None:
    talk.line('"""hi', until="... ")
    assert "Sure thing" in talk.line('there"""')
    talk.line("/save lines")
    talk.line("/load lines", until="Sure thing\n\n>>> ")
    assert '\nMESSAGE user "hi\nthere"\n' in talk.line("/show modelfile")


def test_ctrl_c_ends_an_answer_and_ctrl_d_the_conversation(server: Server) -> None:
    command = [sys.executable, "-m", "mlx_ollama", "run", "endless"]
    with terminal(command, columns=60, env=settings(server)) as talk:
        talk.expect(PROMPT)
        for _ in range(2):
            talk.type("hi\r")
            talk.more(100)
            talk.type("\x03")
            talk.expect(PROMPT)
        talk.type("half a line")
        talk.expect("half a line")
        talk.interrupt("Use Ctrl + d or /bye to exit.\n>>> ")
        talk.type('"""half\r')
        talk.expect("... ")
        talk.interrupt("Use Ctrl + d or /bye to exit.\n>>> ")
        talk.type("\x04")
        assert talk.ended() == 0
    wait_until(lambda: all(worker.cpu_percent(0.2) < 20 for worker in server.workers()), "rest", 20)


@pytest.mark.parametrize(("flags", "expected"), [((), "Sure thin\nthing\n\n"), (("--nowordwrap",), "Sure thing\n\n")])
def test_words_are_kept_whole(server: Server, flags: tuple[str, ...], expected: str) -> None:
    """What was written of a word is taken back when it turns out too long."""
    command = [sys.executable, "-m", "mlx_ollama", "run", "parrot", "hi", *flags]
    with terminal(command, columns=9, env=settings(server)) as narrow:
        assert narrow.ended() == 0
        assert narrow.text.endswith(expected)
        assert ("\x1b[4D\x1b[K" in narrow.seen) == (not flags)


def test_history(server: Server, talk: Terminal) -> None:
    file = server.home / "history"
    talk.line("first words")
    talk.line("/set nohistory")
    talk.line("a secret")
    talk.line("/set history")
    talk.type("\x04")
    assert talk.ended() == 0
    kept = file.read_text()
    assert "first words\n" in kept
    assert "a secret" not in kept
    assert file.stat().st_mode & 0o777 == 0o600
    command = [sys.executable, "-m", "mlx_ollama", "run", "parrot"]
    with terminal(command, columns=60, env=settings(server)) as again:
        again.expect(PROMPT)
        again.type("\x1b[A")
        again.expect("/set nohistory")
        again.type("\x1b[A")
        again.expect("first words")
    before = file.read_text()
    with terminal(command, columns=60, env=settings(server) | {"OLLAMA_NOHISTORY": "1"}) as silent:
        silent.expect(PROMPT)
        silent.line("words that nobody keeps")
        silent.line("/bye", until="/bye")
        assert silent.ended() == 0
    assert file.read_text() == before
