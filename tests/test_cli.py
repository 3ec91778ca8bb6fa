"""The command, as people run it."""

from pathlib import Path

import pytest

from mlx_ollama import __version__
from mlx_ollama.cli import _parsed, _parser
from tests.support.server import Server, run_cli, serving


def test_version() -> None:
    assert run_cli("--version").stdout == f"mlx-ollama {__version__}\n"


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("import", "x"), ("serve", "--device", "npu")])
def test_bad_usage_is_status_2(arguments: tuple[str, ...]) -> None:
    refused = run_cli(*arguments)
    assert refused.returncode == 2
    assert "usage: mlx-ollama" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "prompt"),
    [
        ("run m", []),
        ("run m a --verbose b --port 5 c", ["a", "b", "c"]),
        ("run --think m a", ["a"]),
        ("run m -- --odd", ["--odd"]),
        ("run m a --verbose b -- -x", ["a", "b", "-x"]),
        ("run m -5", ["-5"]),
    ],
)
def test_flags_stand_anywhere(arguments: str, prompt: list[str]) -> None:
    parsed = _parsed(_parser(), arguments.split())
    assert (parsed.model, parsed.prompt) == ("m", prompt)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bad name!", "."), "invalid model name"),
        (("x", "/nowhere"), "/nowhere is no directory"),
        (("x", "/etc/passwd"), "is no directory"),
        (("x", "/usr"), "has no config.json"),
        (("x", ".", "--parameter", "nope=1"), "unknown parameter 'nope'"),
        (("x", ".", "--parameter", "num_ctx=many"), "invalid int value [many]"),
        (("x", ".", "--parameter", "top_p=much"), "invalid float value [much]"),
        (("x", ".", "--parameter", "seed"), "'seed' is not of the form key=value"),
        (("x", ".", "--template", "/nowhere"), "cannot read the template"),
    ],
)
def test_imports_that_cannot_be(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    refused = run_cli("import", *arguments, "--home", str(tmp_path))
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: ")
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_gguf_that_is_none(tmp_path: Path) -> None:
    fake = tmp_path / "fake.gguf"
    fake.write_bytes(b"not a model")
    refused = run_cli("import", "x", str(fake), "--home", str(tmp_path / "home"))
    assert refused.returncode == 1
    assert "fake.gguf cannot be converted" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not list((tmp_path / "home" / "converted").iterdir())


def test_a_running_server_sees_an_import_at_once(tmp_path: Path, tiny_directory: Path) -> None:
    with serving(tmp_path / "home") as server:
        assert server.post("/api/show", {"model": "new"}).status_code == 404
        template = tmp_path / "template"
        template.write_text("<{{ .System }}|{{ .Prompt }}>{{ .Response }}")
        made = run_cli(
            *("import", "New:V1", str(tiny_directory), "--home", str(server.home), "--template", str(template)),
            *("--system", "Be brief.", "--parameter", "stop=a", "--parameter", "stop=b", "--parameter", "num_ctx=64"),
        )
        assert made.stdout.startswith("New:V1 is ready (")
        shown = server.post("/api/show", {"name": "new:v1"}).json()
        assert shown["parameters"].split() == ["stop", '"a"', "stop", '"b"', "num_ctx", "64"]
        assert shown["system"] == "Be brief."
        assert shown["model_info"]["llama.context_length"] == 8192
        assert shown["model_info"]["general.parameter_count"] > 100_000
        assert shown["details"]["format"] == "safetensors"
        assert "tensors" not in shown
        assert server.post("/api/show", {"model": "new:v1", "verbose": True}).json()["tensors"]
        rendered = server.post("/api/generate", {"model": "NEW:v1", "prompt": "hi", "_debug_render_only": True}).json()
        assert rendered["_debug_info"]["rendered_template"] == "<Be brief.|hi>"
        (listed,) = server.client.get("/api/tags").json()["models"]
        assert (listed["name"], listed["capabilities"]) == ("New:V1", ["completion"])


def test_the_models_own_chat_template_is_used_where_there_is_no_other(tiny: Server) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Well, "}]
    rendered = tiny.post("/api/chat", {"model": "tiny", "messages": messages, "_debug_render_only": True}).json()
    assert rendered["_debug_info"]["rendered_template"].endswith("<|im_start|>assistant\nWell, ")


@pytest.mark.real
def test_the_demo_again_is_quick_and_harmless(demo_home: Path) -> None:
    again = run_cli("demo", "--home", str(demo_home), "--parameter", "temperature=0")
    assert again.returncode == 0
    assert "smollm2:135m is ready" in again.stdout
    assert len(list((demo_home / "converted").iterdir())) == 1
