"""What comes before the tests and around them: `make setup`, `.ci/run`, and an environment full of settings."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compat.recordings import cases
from tests.support.server import clean_environment

ROOT = Path(__file__).parents[1]
COMMANDS = ("bash", "make", "dirname", "uname", "grep", "tee", "mktemp", "rm")
"""All that `.ci/run` finds here: it could install something with others."""

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="there is no make")


def _environment() -> dict[str, str]:
    """Without what a `make test` around this hands down."""
    return {key: value for key, value in clean_environment().items() if not key.startswith(("MAKE", "MFLAGS"))}


def test_without_a_python_that_fits_setup_says_what_to_install(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    command = ["make", "setup", "PYTHON=false"]
    done = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Python 3.11, 3.12 or 3.13 is needed; none of 'false' is one" in done.stdout
    for advice in ("brew install python@3.12", "apt-get install python3 python3-venv", "make setup PYTHON=/path/to/"):
        assert advice in done.stdout
    assert not (tmp_path / ".venv").exists()


PASSED, FAILED = "def test_it(): pass\n", "def test_bad(): assert 0\n"
SKIPPED = "import pytest\n@pytest.mark.skip(reason='x')\ndef test_no(): pass\n"


@pytest.mark.parametrize(
    ("tests", "is_good"),
    [(PASSED, True), (SKIPPED + PASSED, True), (SKIPPED, False), ("", False), (PASSED + FAILED, False)],
)
def test_ci_is_content_only_if_a_test_has_passed_and_none_failed(tmp_path: Path, tests: str, is_good: bool) -> None:
    for folder in (".ci", "bin"):
        (tmp_path / folder).mkdir()
    for name in COMMANDS:
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or name)
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / "test_them.py").write_text(tests)
    pytest_here = f"{shlex.quote(sys.executable)} -m pytest -p no:cacheprovider --rootdir . test_them.py"
    (tmp_path / "Makefile").write_text(f"lint types:\n\t@:\ntest:\n\t@{pytest_here}\n")
    environment = _environment() | {"PATH": str(tmp_path / "bin"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [tmp_path / ".ci" / "run"], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode == 0) is is_good, done.stderr
    assert "test session starts" in done.stdout
    assert ("no test passed" in done.stderr) is (tests == SKIPPED)


def test_settings_in_the_environment_change_no_test(tmp_path: Path) -> None:
    """Neither of those that load settings in their own process, nor of those that start a command or a server."""
    chosen = (
        "tests/test_settings.py::test_percentages_are_decimal_numbers",
        "tests/test_settings.py::test_config_prints_every_setting_with_its_origin",
        f"tests/compat/test_replay.py::test_edge[{cases('edge')[0]['name']}]",
    )
    junk = {"MLX_API_PORT": "junk", "MLX_API_WORKERS": "9", "OLLAMA_KEEP_ALIVE": "soon"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "base"), *chosen]
    environment = clean_environment() | junk
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert f"{len(chosen)} passed" in done.stdout, done.stdout
