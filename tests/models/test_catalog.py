"""Ollama's names and the repositories that hold the same: whole rows, and none without a source."""

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from mlx_lm.utils import MODEL_REMAPPING

import mlx_ollama.models
from mlx_ollama.models.catalog import near, repository_of
from mlx_ollama.models.embedder import ENCODERS
from mlx_ollama.models.names import ModelName

CATALOG = tomllib.loads(Path(mlx_ollama.models.__file__).with_name("catalog.toml").read_text())
ROWS = CATALOG["model"]
NAMES = [name for row in ROWS for name in row["names"]]
QUANTISATION = re.compile(r"[:-](i?q\d|fp16|f16|bf16|f32|nvfp4|mxfp\d|int\d)", re.IGNORECASE)
REPOSITORY = re.compile(r"[\w-]+/[\w.-]+")
LIST = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+/blob/[0-9a-f]{40}/.+")


def test_every_row_is_whole() -> None:
    for row in ROWS:
        assert set(row) == {"names", "repository", "original", "architecture", "sources"}, row
        assert all(ModelName.parse(name).display == name == name.lower() for name in row["names"]), row
        assert REPOSITORY.fullmatch(row["repository"]), row
        assert REPOSITORY.fullmatch(row["original"]), row


def test_every_row_names_its_sources() -> None:
    assert LIST.fullmatch(CATALOG["tags"])
    for row in ROWS:
        first, *others = row["sources"]
        # The page of the repository, or a list as it was on a certain day.
        assert first.startswith(f"https://huggingface.co/{row['repository']}") or LIST.fullmatch(first), row
        assert all(source.startswith("https://") for source in others), row
        assert len({*others, first}) == len(row["sources"]), row


@pytest.mark.parametrize("architecture", sorted({row["architecture"] for row in ROWS}))
def test_every_architecture_can_be_loaded(architecture: str) -> None:
    module = MODEL_REMAPPING.get(architecture, architecture)
    assert architecture in ENCODERS or find_spec(f"mlx_lm.models.{module}")


def test_a_name_stands_in_one_row() -> None:
    assert len(NAMES) == len({*NAMES}) >= 240
    repositories = [row["repository"] for row in ROWS]
    assert len(repositories) == len({*repositories})


def test_a_quantisation_that_is_asked_for_is_not_exchanged() -> None:
    assert not [name for name in NAMES if QUANTISATION.search(name)]


def test_a_family_has_its_default() -> None:
    """Of names without a tag one thinks first: where any size is here, what is pulled without a tag should be."""
    families = {name.partition(":")[0] for name in NAMES}
    without = {family for family in families if f"{family}:latest" not in NAMES}
    # Their defaults are models of which no MLX repository was found.
    assert without == {"command-r", "granite3.3", "granite4", "ministral-3", "phi4-reasoning"}


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("gemma3", "gemma3:4b"),
        ("qwen3", "qwen3:8b"),
        ("qwen2.5-coder", "qwen2.5-coder:7b-instruct"),
        ("gpt-oss", "gpt-oss:20b"),
        ("deepseek-r1", "deepseek-r1:8b"),
        ("qwen3:30b", "qwen3:30b-a3b"),
        ("mistral:instruct", "mistral:7b"),
        ("all-minilm", "all-minilm:l6-v2"),
        ("nomic-embed-text", "nomic-embed-text:v1.5"),
        ("library/llama3.2", "LLAMA3.2:3B"),
    ],
)
def test_names_of_one_model(name: str, same: str) -> None:
    assert repository_of(ModelName.parse(name)) == repository_of(ModelName.parse(same)) != ""


@pytest.mark.parametrize("name", ["qwen3-embedding", "codellama", "qwen3:4b-instruct-2507-q8_0", "gemma3:2b"])
def test_what_has_no_row_has_no_repository(name: str) -> None:
    assert repository_of(ModelName.parse(name)) == ""


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("gptoss", "gpt-oss"),
        ("gpt-oss:21b", "gpt-oss:20b"),
        ("deepseek-r1:7", "deepseek-r1:7b"),
        ("all-minilm-l6-v2", "all-minilm:l6-v2"),
        ("mistral-small3", "mistral-small3.2"),
    ],
)
def test_what_looks_like_a_name(name: str, first: str) -> None:
    assert first in near(ModelName.parse(name))
