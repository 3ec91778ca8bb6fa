"""What is handed out: a wheel of this checkout, as the build backend of pyproject.toml makes it."""

import configparser
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mlx_ollama"


def test_a_wheel_holds_everything_that_is_needed(tmp_path: Path) -> None:
    offline = ("--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", *offline, "--wheel-dir", str(tmp_path), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (file,) = tmp_path.glob("mlx_ollama-*-py3-none-any.whl")
    with ZipFile(file) as wheel:
        names = set(wheel.namelist())
        info = next(name.partition("/")[0] for name in names if ".dist-info/" in name)
        points = configparser.ConfigParser()
        points.read_string(wheel.read(f"{info}/entry_points.txt").decode())
        assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert dict(points["console_scripts"]) == {"mlx-ollama": "mlx_ollama.cli:main"}
    assert {"mlx_ollama/py.typed", "mlx_ollama/models/catalog.toml"} <= names
    ours = {path.relative_to(ROOT) for path in PACKAGE.rglob("*") if path.is_file()}
    kept = {str(path) for path in ours if not any(part.startswith((".", "__pycache__")) for part in path.parts)}
    assert {name for name in names if not name.startswith(info)} == kept
