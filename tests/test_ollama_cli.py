"""The genuine `ollama` command against this server: every subcommand that needs no account (wire-spec section 11)."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import Server, clean_environment, run_cli, serving, wait_until
from tests.support.terminal import Terminal, terminal

OLLAMA = Path(__file__).parent / "clients" / "go" / "ollama"
THOUGHT = "Thinking...\nhm\n...done thinking.\n\n"
PROMPT = ">>> Send a message (/? for help)"

pytestmark = [
    pytest.mark.skipif(not OLLAMA.is_file(), reason="the genuine command wants Go: `make setup` installs it"),
    pytest.mark.xdist_group("ollama-cli"),
]


@pytest.fixture(scope="module")
def server(speakers_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = Path(shutil.copytree(speakers_home, tmp_path_factory.mktemp("genuine") / "home"))
    with serving(home) as server:
        yield server


@pytest.fixture(scope="module")
def environment(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """It keeps its history and keys in a home directory, and must not look for a proxy or newer versions."""
    own = tmp_path_factory.mktemp("ollama-home")
    return {"OLLAMA_HOST": f"{server.host}:{server.port}", "HOME": str(own), "OLLAMA_NO_CLOUD": "1"}


class Genuine:
    """The command; `ok` gives what it prints, `refused` what it complains of."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._environment = clean_environment() | environment
        self._folder = folder

    def __call__(self, *arguments: str, typed: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(OLLAMA), *arguments],
            env=self._environment,
            cwd=self._folder,
            input=typed,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def ok(self, *arguments: str, typed: str = "") -> str:
        done = self(*arguments, typed=typed)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *arguments: str) -> str:
        done = self(*arguments)
        assert done.returncode == 1, done.stdout
        return done.stderr.splitlines()[-1].rpartition("\x1b[?25h")[2]


@pytest.fixture
def ollama(environment: dict[str, str], tmp_path: Path) -> Genuine:
    return Genuine(environment, tmp_path)


def lines(text: str) -> list[str]:
    """Without the blanks at the ends of lines, which only the genuine command writes."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def ours(server: Server, *arguments: str) -> list[str]:
    done = run_cli(*arguments, "--home", str(server.home), env={"MLX_API_PORT": str(server.port)})
    assert done.returncode == 0, done.stderr
    return lines(done.stdout)


def test_version(ollama: Genuine) -> None:
    assert "ollama version is 0.33.0" in ollama.ok("--version")


def test_list(ollama: Genuine, server: Server) -> None:
    aged = server.home / "models" / "manifests" / "registry.ollama.ai" / "library"
    for number, model in enumerate(sorted(aged.iterdir()), 2):
        for manifest in model.iterdir():
            os.utime(manifest, (manifest.stat().st_mtime - number * 7200,) * 2)
    listed = lines(ollama.ok("list"))
    assert {line.split()[0] for line in listed} == {
        "NAME",
        "parrot:latest",
        "endless:latest",
        "bert:latest",
        "tiny:latest",
    }
    assert listed == ours(server, "list")
    assert lines(ollama.ok("ls", "PAR")) == ours(server, "ls", "PAR")


def test_show(ollama: Genuine, server: Server) -> None:
    for flags in ((), ("--parameters",), ("--system",), ("--modelfile",), ("--template",), ("--license",)):
        assert lines(ollama.ok("show", "parrot", *flags)) == ours(server, "show", "parrot", *flags)
    assert "    llama.block_count" in ollama.ok("show", "parrot", "--verbose")
    assert "    embedding" in ollama.ok("show", "bert")
    assert ollama.refused("show", "nope") == "Error: model 'nope:latest' not found"


def test_run_once(ollama: Genuine, server: Server) -> None:
    assert ollama.ok("run", "parrot", "hi") == THOUGHT + "Sure thing\n\n"
    assert ollama.ok("run", "parrot", "hi", "--hidethinking") == "Sure thing\n\n"
    assert "Sure thing" in ollama.ok("run", "parrot", "--think=false", "hi")
    done = ollama("run", "parrot", "--verbose", "--keepalive", "10m", "and", typed="hi")
    assert "eval rate:" in done.stderr
    assert "9 minutes from now" in ollama.ok("ps")


def test_run_with_a_format(ollama: Genuine) -> None:
    schema = json.dumps({"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]})
    assert json.loads(ollama.ok("run", "endless", "hi", "--format", schema)) in ({"n": 1}, {"n": 2})


def test_run_an_embedding_model(ollama: Genuine, server: Server) -> None:
    (expected,) = server.post("/api/embed", {"model": "bert", "input": "ba be"}).json()["embeddings"]
    assert json.loads(ollama.ok("run", "bert", "ba", "be")) == expected


def test_ps_and_stop(ollama: Genuine, server: Server) -> None:
    ollama.ok("run", "tiny", "")
    # Twice, if a minute ends between the two.
    wait_until(lambda: lines(ollama.ok("ps")) == ours(server, "ps"), "the same table")
    assert ollama.ok("stop", "tiny") == ""
    wait_until(lambda: "tiny" not in ollama.ok("ps"), "the unloading")
    assert ollama.refused("stop", "nope") == 'Error: couldn\'t find model "nope" to stop'


def test_create_cp_rm(ollama: Genuine, server: Server, tmp_path: Path) -> None:
    text = 'FROM tiny\nSYSTEM """Be\nloud."""\nPARAMETER stop x\nPARAMETER top_p 0.7\nMESSAGE user hi\nLICENSE MIT\n'
    (tmp_path / "Modelfile").write_text(text)
    assert "success" in ollama("create", "made").stderr
    assert ollama.ok("show", "made", "--system") == "Be\nloud."
    assert ollama.ok("show", "made", "--parameters").split() == ["stop", '"x"', "top_p", "0.7"]
    assert ollama.ok("show", "made", "--license").rstrip() == "MIT"
    assert ollama.ok("cp", "made", "ns/copy:v1") == "copied 'made' to 'ns/copy:v1'\n"
    server.post("/api/generate", {"model": "made"})
    assert ollama.ok("rm", "made", "ns/copy:v1") == "deleted 'made'\ndeleted 'ns/copy:v1'\n"
    assert ollama.refused("rm", "made") == "Error: model 'made' not found"
    assert ollama.refused("cp", "made", "x") == 'Error: model "made" not found'


def test_create_from_files(ollama: Genuine, server: Server, tmp_path: Path, tiny_directory: Path) -> None:
    (tmp_path / "Modelfile").write_text(f"FROM {tiny_directory}\nSYSTEM Be quick.\n")
    done = ollama("create", "uploaded")
    assert done.returncode == 0, done.stderr
    assert ollama.ok("show", "uploaded", "--system") == "Be quick."
    assert "quantization        float32" in ollama.ok("show", "uploaded")
    loaded = server.post("/api/generate", {"model": "uploaded", "prompt": "hi", "options": {"num_predict": 3}})
    assert loaded.status_code == 200
    done = ollama("create", "smaller", "--quantize", "q8_0")
    assert done.returncode == 0, done.stderr
    assert "Q8_0" in ollama.ok("show", "smaller")
    ollama.ok("rm", "uploaded", "smaller")


def test_what_is_shown_can_be_created(ollama: Genuine, tmp_path: Path, server: Server) -> None:
    (tmp_path / "again.txt").write_text(ollama.ok("show", "parrot", "--modelfile").replace("FROM /", "# FROM /", 1))
    with (tmp_path / "again.txt").open("a") as file:
        file.write("FROM parrot\nSYSTEM And again.\n")
    assert "success" in ollama("create", "again", "-f", "again.txt").stderr
    assert ollama.ok("run", "again", "hi", "--hidethinking") == "Sure thing\n\n"
    ollama.ok("rm", "again")


def test_pull_and_push_say_what_is_wrong(ollama: Genuine) -> None:
    assert ollama.refused("pull", "no-such-model-anywhere").startswith("Error: ")
    assert ollama.refused("push", "nope").startswith("Error: ")
    assert ollama.refused("run", "no-such-model-anywhere", "hi").startswith("Error: ")


@pytest.fixture
def talk(environment: dict[str, str]) -> Iterator[Terminal]:
    with terminal([str(OLLAMA), "run", "parrot"], env=environment) as talk:
        talk.expect(PROMPT)
        yield talk


def test_a_conversation(talk: Terminal, ollama: Genuine, server: Server) -> None:
    def line(text: str) -> str:
        return talk.line(text, until=PROMPT)

    assert THOUGHT + "Sure thing\n\n" in line("hi")
    assert "    architecture        llama" in line("/show info")
    assert "# Modelfile generated by" in line("/show modelfile")
    assert "Set system message." in line("/set system Be kind.")
    assert "Set parameter 'temperature' to '0.5'" in line("/set parameter temperature 0.5")
    assert "Be kind." in line("/show system")
    assert "temperature                    0.5" in line("/show parameters")
    assert "Sure thing" in line("hi")
    assert "parrot:latest" in line("/list")
    assert "Created new model 'kept'" in line("/save kept")
    assert "Loading model 'kept'" in line("/load kept")
    assert "Sure thing" in line("hi")
    assert "Couldn't find model 'nope'" in line("/load nope")
    talk.type("/bye\r")
    assert talk.ended() == 0
    kept = server.post("/api/show", {"model": "kept"}).json()
    assert kept["system"] == "Be kind."
    assert kept["parameters"].split() == ["temperature", "0.5"]
    assert "Sure thing" in [message["content"] for message in kept["messages"]]
    ollama.ok("rm", "kept")


def test_ctrl_c_ends_an_answer(environment: dict[str, str], server: Server) -> None:
    with terminal([str(OLLAMA), "run", "endless"], env=environment) as talk:
        talk.expect(PROMPT)
        talk.type("hi\r")
        talk.more(200)
        talk.type("\x03")
        talk.expect(PROMPT)
        wait_until(lambda: all(worker.cpu_percent(0.2) < 20 for worker in server.workers()), "rest", 20)
        talk.type("/bye\r")
        assert talk.ended() == 0
