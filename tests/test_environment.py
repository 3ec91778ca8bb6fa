"""What other people's libraries read of the environment, compared with the libraries themselves."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import clean_environment

BOTH = """
from pathlib import Path
from huggingface_hub import constants
from mlx_ollama.environment import hub_cache
print(hub_cache())
print(Path(constants.HF_HUB_CACHE).absolute())
"""


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, "ann/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "~/caches"}, "ann/caches/huggingface/hub"),
        ({"XDG_CACHE_HOME": "$DISK/caches"}, "disk/caches/huggingface/hub"),
        ({"HF_HOME": "~/hf", "XDG_CACHE_HOME": "/x"}, "ann/hf/hub"),
        ({"HF_HOME": "${DISK}/hf"}, "disk/hf/hub"),
        ({"HF_HOME": "$MISSING/hf"}, "$MISSING/hf/hub"),
        ({"HF_HOME": "~nobody-of-that-name/hf"}, "~nobody-of-that-name/hf/hub"),
        ({"HUGGINGFACE_HUB_CACHE": "~/old", "HF_HOME": "/x"}, "ann/old"),
        ({"HUGGINGFACE_HUB_CACHE": "$DISK/old"}, "disk/old"),
        ({"HF_HUB_CACHE": "$DISK/new", "HUGGINGFACE_HUB_CACHE": "/x", "HF_HOME": "/y"}, "disk/new"),
        ({"HF_HUB_CACHE": "~/new"}, "ann/new"),
        ({"HF_HUB_CACHE": "here/new"}, "here/new"),
        ({"HF_HUB_CACHE": "", "HUGGINGFACE_HUB_CACHE": "/x"}, ""),
        ({"HUGGINGFACE_HUB_CACHE": ""}, ""),
        ({"HF_HOME": ""}, "hub"),
        ({"XDG_CACHE_HOME": ""}, "huggingface/hub"),
    ],
)
def test_the_hubs_cache_is_where_its_library_has_it(tmp_path: Path, variables: dict[str, str], place: str) -> None:
    usual = clean_environment()
    usual.pop("XDG_CACHE_HOME", None)
    named = {
        "HOME": str(tmp_path / "ann"),
        "DISK": str(tmp_path / "disk"),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    told = subprocess.run(
        [sys.executable, "-c", BOTH],
        env=usual | named | variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    ours, theirs = told.stdout.splitlines()
    assert ours == theirs == str(tmp_path / place)
