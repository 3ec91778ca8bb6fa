"""No request of ours goes to the internet: everything works with every other machine out of reach, and nobody tries."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.embedders import write_tiny_encoder
from tests.support.server import Server, clean_environment

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
GUARD = ROOT / "tests" / "support" / "guard"
ALONE = ("unshare", "--user", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
"""A network of our own, in which there is this machine and nothing else."""


def _can_be_alone() -> bool:
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    return subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0


def _run(*arguments: str, path: str, record: Path, alone: bool) -> int:
    """How many packets of the program went nowhere."""
    environment = clean_environment() | {"PYTHONPATH": path, "LOCAL_ONLY_RECORD": str(record)}
    command = [*(ALONE if alone else ()), sys.executable, "-m", "tests.support.local_only", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout.splitlines()[-1])["unroutable"])


def test_nobody_is_asked_but_this_machine(tmp_path: Path) -> None:
    write_tiny_encoder(tmp_path / "encoder", "bert")
    record = tmp_path / "record"
    open_path = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    guarded = f"{GUARD}:{open_path}"
    alone = _can_be_alone()

    # An attempt would be noticed: by Python's own hand, and below it.
    _run("--try", path=guarded, record=record, alone=alone)
    assert "look-up of 'example.org'" in record.read_text()
    assert "connection to ('192.0.2.1', 443)" in record.read_text()
    assert not alone or _run("--try", path=open_path, record=record, alone=True) >= 2
    record.unlink()

    packets = _run(str(tmp_path / "home"), str(tmp_path / "encoder"), path=guarded, record=record, alone=alone)
    assert not record.exists(), record.read_text()
    assert not alone or packets == 0


def test_the_libraries_of_a_worker_are_told_to_stay(tiny: Server) -> None:
    """In a worker's own environment, the hub's library refuses before it asks."""
    assert tiny.post("/api/generate", {"model": "tiny"}).status_code == 200
    (worker,) = tiny.workers()
    program = (
        "from huggingface_hub import HfApi, constants\n"
        "assert constants.HF_HUB_OFFLINE and constants.HF_HUB_DISABLE_TELEMETRY\n"
        "try: HfApi().model_info('a/b')\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], env=worker.environ(), capture_output=True, text=True, check=True
    )
    assert told.stdout == "OfflineModeIsEnabled\n"
