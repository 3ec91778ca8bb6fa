import compileall
import fcntl
import functools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from httpx._transports import default as httpx_transports
from hypothesis import settings

import mlx_ollama
from mlx_ollama.worker.blas import preload_openblas
from tests.faults.outcomes import Recorder
from tests.support.cli import import_model
from tests.support.server import Server, run_cli, serving

# The same examples in every run, however slow the machine.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")

# As in a worker: before anything imports mlx. As many tests run at once as there are processors: the threads of one
# product would but wait for those of another.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
preload_openblas()

# Of the many clients that speak with servers on loopback, the first one reads the world's certificates for all.
httpx_transports.create_ssl_context = functools.cache(httpx_transports.create_ssl_context)  # type: ignore[attr-defined]

for _name in [name for name in os.environ if name.startswith(("MLX_API_", "OLLAMA_", "HF_", "HUGGINGFACE_"))]:
    del os.environ[_name]

for _signal in (signal.SIGHUP, signal.SIGINT):
    # Under nohup or in the background. The servers of the tests would ignore it, too, where they take a handler of
    # ours for the default.
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, lambda *_: None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--outcomes", action="store_true", help="write the table of faults anew (tests/faults/OUTCOMES.md)"
    )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        # A server whose files are limited in size would leave half of what it compiles, and all others would read that.
        compileall.compile_dir(Path(mlx_ollama.__file__).parent, quiet=2)
    if config.getoption("outcomes"):
        config.pluginmanager.register(Recorder())


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all processes of a parallel run."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def demo_home(shared_folder: Path) -> Path:
    """A home with the demo model as the recordings had it; converted once for all processes."""
    home = shared_folder / "demo-home"
    with (shared_folder / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "models").is_dir():
            made = run_cli("demo", "--home", str(home), "--parameter", "temperature=0")
            assert made.returncode == 0, made.stderr
    return home


@pytest.fixture(scope="session")
def demo(demo_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the demo model, one per test process."""
    home = tmp_path_factory.mktemp("demo")
    home.rmdir()
    home.symlink_to(demo_home)
    log = tmp_path_factory.mktemp("log") / "server.log"
    server = Server(home, log)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def tiny_directory(shared_folder: Path) -> Path:
    """A tiny model directory whose greedy text varies and never ends by itself."""
    from tests.support.tiny import write_tiny_model  # noqa: PLC0415 - only some processes need mlx

    directory = shared_folder / "tiny-model"
    with (shared_folder / "tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "config.json").is_file():
            write_tiny_model(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_home(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the tiny model is called `tiny`."""
    home = tmp_path_factory.mktemp("tiny-home")
    import_model(home, "tiny", tiny_directory, "--parameter", "temperature=0")
    return home


@pytest.fixture(scope="session")
def tiny(tiny_home: Path) -> Iterator[Server]:
    """A server with the tiny model, one per test process; for tests that leave it as they find it."""
    with serving(tiny_home) as server:
        yield server


@pytest.fixture(scope="session")
def speakers_home(tiny_directory: Path, shared_folder: Path) -> Path:
    """A home for what people type: `parrot` thinks `hm` and says `Sure thing`, `endless` never ends, `bert` embeds."""
    from tests.support.embedders import write_tiny_encoder  # noqa: PLC0415 - only some processes need mlx
    from tests.support.parrot import write_parrot  # noqa: PLC0415 - see above
    from tests.support.tiny import write_tiny_model  # noqa: PLC0415 - see above
    from tests.worker.parse.tokenizers import FAMILIES  # noqa: PLC0415 - see above

    folder, home = shared_folder / "speakers", shared_folder / "speakers-home"
    answer = ("<think>", "hm", "</think>", "Sure ", "thing")
    with (shared_folder / "speakers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            made = {
                "parrot": write_parrot(folder / "parrot", FAMILIES["qwen3"][0], answer, ["<|im_start|>assistant\n"]),
                "endless": write_tiny_model(folder / "endless", context=100_000),
                "bert": write_tiny_encoder(folder / "bert", longest=20),
                "tiny": tiny_directory,
            }
            for name, directory in made.items():
                import_model(home, name, directory)
    return home
