"""How workers import mlx-lm."""

import subprocess
import sys

from tests.support.server import clean_environment

SCRIPT = """
import functools
from mlx_ollama.worker.importing import import_mlx_lm

before = functools.lru_cache
import_mlx_lm()
assert functools.lru_cache is before
from transformers.utils.import_utils import create_import_structure_from_path

known = create_import_structure_from_path.cache_info()
print(known.currsize, known.misses)
"""


def test_transformers_looks_into_each_of_its_folders_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    folders, looks = map(int, done.stdout.split())
    assert folders == looks > 128
