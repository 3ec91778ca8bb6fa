"""The command, run in the tests' own process: it is the same one, and there are many of them."""

import io
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mlx_ollama.cli import main


def import_model(home: Path, name: str, directory: Path, *options: str) -> None:
    """`mlx-ollama import`: from now on the model in `directory` is called `name` in this home."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        status = main(["import", name, str(directory), "--home", str(home), *options])
    assert status == 0, said.getvalue()


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it wrote."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Cli:
    """Runs commands with settings of its own."""

    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch
    home: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str, typed: str = "") -> Done:
        """Run a command; `typed` comes through a pipe."""
        with self.monkeypatch.context() as patch:
            patch.setattr("sys.stdin", io.StringIO(typed))
            # Where no server is, unless the test names one.
            for name, value in {"MLX_API_HOME": str(self.home), "MLX_API_PORT": "1", **self.settings}.items():
                patch.setenv(name, value)
            self.capsys.readouterr()
            status = main(arguments)
        return Done(status, *self.capsys.readouterr())

    def ok(self, *arguments: str, typed: str = "") -> str:
        """What it prints."""
        done = self(*arguments, typed=typed)
        assert done.status == 0, done.err
        return done.out

    def refused(self, *arguments: str) -> str:
        """The last line of its complaint."""
        done = self(*arguments)
        assert done.status == 1
        return done.err.splitlines()[-1]
