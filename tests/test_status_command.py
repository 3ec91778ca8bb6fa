"""`mlx-ollama status`, as people and scripts run it."""

import signal
import socket
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from mlx_ollama import __version__
from tests.support.server import Server, clean_environment, run_cli, serving


def test_a_healthy_server_is_status_0(tiny: Server) -> None:
    assert tiny.post("/api/generate", {"model": "tiny"}).status_code == 200
    told = run_cli("status", "--port", str(tiny.port))
    assert (told.returncode, told.stderr) == (0, "")
    first, *facts = told.stdout.splitlines()
    assert first == f"mlx-ollama {__version__} at {tiny.url} is healthy"
    assert "requests  0 of 16 at once, 0 waiting" in facts
    assert "models    1 in memory, 1 in the store" in facts
    assert facts[-1].split()[:4] == ["tiny:latest", "idle", "0", str(int(facts[-1].split()[3]))]


def test_one_model(tiny: Server) -> None:
    assert tiny.post("/api/generate", {"model": "tiny"}).status_code == 200
    loaded = run_cli("status", "tiny", "--port", str(tiny.port))
    assert loaded.returncode == 0
    assert [line.split()[0] for line in loaded.stdout.splitlines()] == ["NAME", "tiny:latest"]
    tiny.post("/api/generate", {"model": "tiny", "keep_alive": 0})
    unloaded = run_cli("status", "tiny:latest", "--port", str(tiny.port))
    assert (unloaded.returncode, unloaded.stdout) == (0, "tiny:latest is not in memory; the next request loads it\n")
    missing = run_cli("status", "missing", "--port", str(tiny.port))
    assert (missing.returncode, missing.stderr) == (1, "Error: model 'missing:latest' not found\n")


def test_a_server_that_is_not_healthy_is_status_1_and_says_why(tiny_home: Path) -> None:
    levels = {"MLX_API_MEMORY_WARNING": "0.001", "MLX_API_MEMORY_CRITICAL": "100", "MLX_API_MEMORY_EMERGENCY": "100"}
    with serving(tiny_home, env=levels) as server:
        told = run_cli("status", "--port", str(server.port))
        assert told.returncode == 1
        assert told.stdout.splitlines()[0].endswith(f"{server.url} is warning")
        assert "warning   memory is " in told.stdout
        watching = subprocess.Popen(
            [sys.executable, "-m", "mlx_ollama", "status", "--watch", "--interval", "0.2", "--port", str(server.port)],
            env=clean_environment(),
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert watching.stdout
        heads = list(islice((line for line in watching.stdout if line.startswith("mlx-ollama ")), 3))
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 1
        watching.stdout.close()
        assert len(set(heads)) == 1


def test_no_server_is_status_1_and_says_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        told = run_cli("status", "--port", str(taken.getsockname()[1]))
    assert told.returncode == 1
    assert "no server answers at http://127.0.0.1:" in told.stderr
    assert "start one with `mlx-ollama serve`" in told.stderr
    assert not told.stdout


def test_a_key_is_shown_where_there_are_some(tiny_home: Path) -> None:
    with serving(tiny_home, env={"MLX_API_KEYS": "one,two"}) as server:
        stranger = run_cli("status", "--port", str(server.port))
        assert stranger.returncode == 1
        assert "this server needs a key" in stranger.stderr
        assert run_cli("status", "--port", str(server.port), env={"MLX_API_KEYS": "two"}).returncode == 0


@pytest.mark.parametrize("interval", ["0", "-1", "soon"])
def test_an_interval_that_is_none(interval: str) -> None:
    assert run_cli("status", "--watch", f"--interval={interval}").returncode == 2


@pytest.mark.parametrize("named", ["no.such.module:X", "nonsense"])
def test_a_chooser_that_is_none_stops_the_start(tmp_path: Path, named: str) -> None:
    refused = run_cli("serve", "--home", str(tmp_path), "--port", "0", env={"MLX_API_EVICTION": named})
    assert refused.returncode == 2
    assert refused.stderr.startswith("Error: MLX_API_EVICTION: eviction: ")
    assert named in refused.stderr
