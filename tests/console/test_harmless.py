"""What others have written reaches a terminal without what a terminal obeys, and everything else as it is."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import import_model
from tests.support.registry import LocalRegistry
from tests.support.server import run_cli, serving
from tests.support.terminal import Terminal, terminal

RUDE = "\x1b]0;stolen\x07b\x9b1Ae"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_directory: Path) -> Path:
    """A home with `rude`, all texts of which a terminal would obey."""
    home = tmp_path_factory.mktemp("rude")
    import_model(home, "tiny", tiny_directory)
    texts = {"system": RUDE, "license": RUDE, "template": RUDE, "parameters": {"stop": [RUDE]}}
    with serving(home) as server:
        made = server.post("/api/create", {"model": "rude", "from": "tiny", "stream": False, **texts})
    assert made.status_code == 200, made.text
    return home


@pytest.fixture
def registry() -> Iterator[LocalRegistry]:
    with LocalRegistry(b"GGUF").serving() as registry:
        yield registry


def on_a_terminal(*arguments: str, status: int) -> Terminal:
    with terminal([sys.executable, "-m", "mlx_ollama", *arguments], columns=200) as shown:
        assert shown.ended() == status
        return shown


@pytest.mark.parametrize("part", ["--modelfile", "--system", "--license", "--template", "--parameters", "--verbose"])
def test_show(home: Path, part: str) -> None:
    show = ("show", "rude", part, "--home", str(home))
    shown = on_a_terminal(*show, status=0)
    assert "b1Ae" in shown.text
    assert "\x1b" not in shown.seen
    assert "\x9b" not in shown.seen
    assert "b\x9b1Ae" in run_cli(*show).stdout


def test_the_error_of_a_registry(registry: LocalRegistry, tmp_path: Path) -> None:
    pull = ("pull", f"http://{registry.host}/ns/rude", "--home", str(tmp_path), "--insecure")
    shown = on_a_terminal(*pull, status=1)
    assert "]0;stolenboom" in shown.seen
    assert "\x1b]" not in shown.seen
    assert "\x1b]0;stolen\x07boom" in run_cli(*pull).stderr
