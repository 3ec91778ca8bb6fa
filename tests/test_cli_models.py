"""What needs no server: list, show, create, cp, rm; and that a running one sees it at once."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mlx_ollama.models.modelfile_parser import Modelfile
from mlx_ollama.models.names import ModelName
from mlx_ollama.models.store import Store, StoredModel
from tests.support.cli import Cli, Done, import_model
from tests.support.server import serving, wait_until
from tests.support.terminal import terminal
from tests.worker.gguf_files import TinyLlama, write_gguf

SYSTEM = "Be brief.\n\n" + "word " * 30 + "\nAnd kind."


@pytest.fixture(scope="module")
def first_home(tmp_path_factory: pytest.TempPathFactory, tiny_directory: Path) -> Path:
    """A home with `tiny`, which has a system message of many lines."""
    home = tmp_path_factory.mktemp("first") / "home"
    extras = ("--system", SYSTEM, "--parameter", "stop=a", "--parameter", "top_k=7")
    import_model(home, "tiny", tiny_directory, *extras)
    return home


@pytest.fixture
def home(first_home: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(first_home, tmp_path / "home"))


@pytest.fixture
def cli(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(capsys, monkeypatch, home)


def stored(home: Path, name: str) -> StoredModel:
    found = Store(home / "models").find(ModelName.parse(name))
    assert found is not None
    return found


def modelfile(folder: Path, text: str) -> str:
    path = folder / "made.Modelfile"
    path.write_text(text)
    return str(path)


def test_list(cli: Cli, home: Path) -> None:
    two_hours_ago = time.time() - 7200
    os.utime(Store(home / "models").manifest_path(ModelName.parse("tiny")), (two_hours_ago, two_hours_ago))
    cli.ok("cp", "tiny", "ns/Other:v1")
    heading, *rows = cli.ok("list").splitlines()
    assert heading.split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    tiny = stored(home, "tiny")
    assert [row.split()[:4] for row in rows] == [
        [name, tiny.digest[:12], str(tiny.size // 1000), "KB"] for name in ("ns/Other:v1", "tiny:latest")
    ]
    assert rows[1].endswith("    2 hours ago")
    assert cli.ok("ls", "NS/").splitlines()[1:] == rows[:1]
    assert cli.ok("list", "nothing").split() == heading.split()


def test_list_of_an_empty_store(cli: Cli, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    assert replace(cli, home=empty).ok("list").split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    assert not empty.exists(), "looking changes nothing"


def test_show(cli: Cli, home: Path, tiny_directory: Path) -> None:
    shown = cli.ok("show", "TINY")
    assert shown.splitlines()[:7] == [
        "  Model",
        "    architecture        llama",
        "    parameters          164K",
        "    context length      8192",
        "    embedding length    64",
        "    quantization        float32",
        "",
    ]
    assert '\n  Parameters\n    stop     "a"\n    top_k    7\n' in shown
    assert "\n  System\n    Be brief.\n    word word" in shown
    assert shown.endswith("\n    ...\n\n"), "a long text is only begun"
    verbose = cli.ok("show", "tiny", "-v")
    assert "    llama.block_count                2\n" in verbose
    assert "    model.norm.weight                                 F32    [64]\n" in verbose
    assert cli.ok("show", "tiny", "--system") == SYSTEM + "\n"
    assert cli.ok("show", "tiny", "--parameters").split() == ["stop", '"a"', "top_k", "7"]
    assert "<|im_start|>" in cli.ok("show", "tiny", "--template")
    assert cli.ok("show", "tiny", "--license") == ""
    assert f"\nFROM {tiny_directory}\n" in cli.ok("show", "--modelfile", "tiny")


def test_cp_and_rm(cli: Cli, home: Path) -> None:
    assert cli.ok("cp", "tiny", "copy") == "copied 'tiny' to 'copy'\n"
    assert stored(home, "copy").digest == stored(home, "tiny").digest
    assert cli.ok("rm", "copy", "tiny") == "deleted 'copy'\ndeleted 'tiny'\n"
    assert not Store(home / "models").models()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "nope"), "Error: model 'nope:latest' not found"),
        (("show", "bad name!"), "Error: invalid model name"),
        (("cp", "nope", "x"), 'Error: model "nope" not found'),
        (("cp", "tiny", "bad name!"), 'Error: destination "bad name!" is invalid'),
        (("rm", "nope"), "Error: model 'nope' not found"),
        (("rm", "bad name!"), 'Error: name "bad name!" is invalid'),
        (("create", "x", "-f", "/nowhere"), "Error: specified Modelfile wasn't found: /nowhere"),
    ],
)
def test_names_that_are_wrong(cli: Cli, home: Path, arguments: tuple[str, ...], message: str) -> None:
    assert cli.refused(*arguments) == message


def test_rm_goes_on_after_one_that_is_not_there(cli: Cli, home: Path) -> None:
    assert cli("rm", "nope", "tiny") == Done(1, "deleted 'tiny'\n", "Error: model 'nope' not found\n")


def test_only_one_part_can_be_shown(cli: Cli, home: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli("show", "tiny", "--system", "--license")


def test_create_from_a_model(cli: Cli, home: Path, tmp_path: Path) -> None:
    text = (
        "FROM tiny\nSYSTEM Be loud.\nTEMPLATE {{ .System }}|{{ .Prompt }}\nPARAMETER stop b\nPARAMETER mirostat 1\n"
        'LICENSE MIT\nMESSAGE user hi\nMESSAGE assistant """hel\nlo"""\nREQUIRES 0.14'
    )
    done = cli("create", "Made:v1", "-f", modelfile(tmp_path, text))
    assert done.status == 0, done.err
    assert done.err.startswith("warning: parameter mirostat is deprecated\n")
    assert done.err.endswith("\nwriting manifest\nsuccess\n")
    made = stored(home, "made:v1")
    assert (made.name.display, made.system, made.licenses) == ("Made:v1", "Be loud.", ("MIT",))
    assert made.template == "{{ .System }}|{{ .Prompt }}"
    assert made.parameters == {"stop": ["b"], "top_k": 7}
    assert [(turn.role, turn.content) for turn in made.messages] == [("user", "hi"), ("assistant", "hel\nlo")]
    assert made.config["requires"] == "0.14"
    assert made.weights == stored(home, "tiny").weights


def test_create_from_a_directory_refers_to_it(cli: Cli, home: Path, tmp_path: Path, tiny_directory: Path) -> None:
    (tmp_path / "weights").symlink_to(tiny_directory)
    cli.ok("create", "near", "-f", modelfile(tmp_path, "FROM ./weights"))
    assert stored(home, "near").directory == tiny_directory.resolve()
    cli.monkeypatch.chdir(tiny_directory)
    cli.ok("create", "here")
    assert stored(home, "here").directory == tiny_directory.resolve(), "a folder of weights needs no Modelfile"
    assert not [blob for blob in (home / "models" / "blobs").iterdir() if blob.stat().st_size > 100_000]


def test_create_from_a_gguf_file(cli: Cli, home: Path, tmp_path: Path) -> None:
    weights = write_gguf(tmp_path / "tiny.gguf", TinyLlama())
    (tmp_path / "Modelfile").write_text("# default\r\nFROM tiny.gguf\r\nSYSTEM Be loud.\r\n")
    cli.monkeypatch.chdir(tmp_path)
    cli.ok("create", "made")
    cli.ok("create", "small", "--quantize", "q8_0")
    blob = stored(home, "made").weights
    assert blob is not None
    assert blob.gguf is not None
    assert blob.gguf.samefile(weights), "linked, not copied"
    assert stored(home, "made").system == "Be loud."
    assert "    quantization        F16\n" in cli.ok("show", "made")
    assert "    quantization        Q8_0\n" in cli.ok("show", "small")


def test_a_home_named_from_one_folder_is_the_same_from_another(cli: Cli, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", TinyLlama(layers=1))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    cli.monkeypatch.chdir(tmp_path)
    cli.ok("import", "made", "tiny.gguf", "--home", "relative")
    cli.monkeypatch.chdir(elsewhere)
    there = ("--home", str(tmp_path / "relative"))
    assert "    quantization        F16\n" in cli.ok("show", "made", *there)
    cli.ok("rm", "made", *there)
    left = [path for path in (tmp_path / "relative" / "converted").iterdir() if path.is_dir()]
    assert left == []


def test_a_terminal_sees_how_far_a_conversion_is(tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text(f"FROM {write_gguf(tmp_path / 'tiny.gguf', TinyLlama())}")
    made = ("create", "made", "-f", str(tmp_path / "Modelfile"), "--home", str(tmp_path / "home"))
    with terminal([sys.executable, "-m", "mlx_ollama", *made], columns=100, env={}) as shown:
        shown.expect("converting model")
        assert "100%" in shown.expect("success")
        assert shown.ended() == 0


def test_create_quantized_from_a_directory(cli: Cli, home: Path, tmp_path: Path, tiny_directory: Path) -> None:
    snapshot = tmp_path / "models--x" / "snapshots" / "main"
    blobs = tmp_path / "models--x" / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    for file in tiny_directory.iterdir():
        os.link(file, blobs / f"of-{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/of-{file.name}")
    cli.ok("create", "small", "-q", "q8_0", "-f", modelfile(tmp_path, f"FROM {snapshot}"))
    assert "    quantization        Q8_0\n" in cli.ok("show", "small")
    (snapshot / "more.json").symlink_to("/etc/hostname")
    assert cli.refused("create", "x", "-q", "q8_0", "-f", modelfile(tmp_path, f"FROM {snapshot}")) == (
        f"Error: insecure path: {snapshot}/more.json"
    )
    cli.ok("rm", "small")
    assert not [path for path in (home / "converted").iterdir() if path.is_dir()], "no other form was left"


UNPRIVILEGED = """
import ctypes, sys
from mlx_ollama.cli import main
version, no_rights = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert ctypes.CDLL(None).capset(version, no_rights) == 0
sys.exit(main(sys.argv[1:]))
"""
"""The command as somebody runs it for whom the modes of files count, which they do not for root."""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets root do without its rights")
@pytest.mark.parametrize("mode", [0o311, 0o600], ids=["not listed", "not entered"])
def test_a_folder_that_cannot_be_read_takes_no_other_model_along(
    cli: Cli, home: Path, tmp_path: Path, tiny_directory: Path, mode: int
) -> None:
    folder = shutil.copytree(tiny_directory, tmp_path / "private")
    cli.ok("import", "private", str(folder))
    cli.ok("import", "open", str(tiny_directory))
    folder.chmod(mode)
    try:
        for arguments, status in ((("list",), 0), (("show", "open"), 0), (("show", "private"), 1)):
            command = [sys.executable, "-c", UNPRIVILEGED, *arguments, "--home", str(home)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr
            assert arguments != ("list",) or {"open:latest", "private:latest"} <= set(done.stdout.split())
    finally:
        folder.chmod(0o755)


def test_what_show_prints_makes_the_same_model(cli: Cli, home: Path, tmp_path: Path) -> None:
    for name in ("tiny", "again"):
        cli.ok("create", "again", "-f", modelfile(tmp_path, cli.ok("show", "--modelfile", name)))
        first, again = stored(home, "tiny"), stored(home, "again")
        assert again.directory == first.directory
        for part in ("template", "system", "parameters", "messages", "licenses"):
            assert getattr(again, part) == getattr(first, part)
    assert Modelfile.parse(cli.ok("show", "--modelfile", "again")).all("template") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SYSTEM x", "no FROM line"),
        ("FROM tiny\nNOPE x", "(line 2): command must be one of"),
        ('FROM tiny\nSYSTEM "x', "unexpected EOF"),
        ("FROM tiny\nPARAMETER nope 1", "unknown parameter 'nope'"),
        ("FROM tiny\nPARAMETER num_ctx x", "invalid int value [x]"),
        ("FROM tiny\nTEMPLATE {{ .Prompt", "template error: "),
        (
            f"FROM tiny\nTEMPLATE {'x' * 1048577}",
            "template error: template of 1048577 characters: 1048576 are the most",
        ),
        ("FROM ./nowhere", "/nowhere: no such file or directory"),
        ("FROM tiny\nADAPTER ./nowhere", "/nowhere: no such file or directory"),
        ("FROM tiny\nADAPTER made.Modelfile", "draft models and adapters are not supported"),
        ("FROM tiny\nDRAFT made.Modelfile", "draft models and adapters are not supported"),
        ("FROM bad name!", "invalid model name"),
        ("FROM .", "no Modelfile or safetensors files found in"),
        ("FROM made.Modelfile", "unknown type"),
        ("FROM nothing-like-it", "nothing-like-it"),
    ],
    ids=lambda value: value[:40],
)
def test_models_that_cannot_be_created(cli: Cli, home: Path, tmp_path: Path, text: str, message: str) -> None:
    answer = cli.refused("create", "x", "-f", modelfile(tmp_path, text))
    assert answer.startswith("Error: ")
    assert message in answer
    assert [model.name.display for model in Store(home / "models").models()] == ["tiny:latest"]


def test_no_modelfile(cli: Cli, home: Path, tmp_path: Path) -> None:
    cli.monkeypatch.chdir(tmp_path)
    assert cli.refused("create", "x") == "Error: no Modelfile or safetensors files found"


def test_a_running_server_sees_everything_at_once(cli: Cli, home: Path, tmp_path: Path) -> None:
    def names(path: str) -> set[str]:
        return {model["name"] for model in server.client.get(path).json()["models"]}

    with serving(home) as server:
        port = ("--port", str(server.port))
        cli.ok("cp", "tiny", "copy")
        cli.ok("create", "made", "-f", modelfile(tmp_path, "FROM tiny\nSYSTEM Be loud."))
        assert names("/api/tags") == {"tiny:latest", "copy:latest", "made:latest"}
        assert server.post("/api/generate", {"model": "made"}).status_code == 200
        cli.ok("rm", "copy", *port)
        assert names("/api/ps") == {"made:latest"}, "the other was not loaded"
        cli.ok("rm", "made", *port)
        assert names("/api/tags") == {"tiny:latest"}
        wait_until(lambda: not names("/api/ps"), "the unloading")
