"""The choosers of idle models, ours and an operator's."""

import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mlx_ollama.choosers import NotAChooser
from mlx_ollama.policies.eviction import IdleModel, LeastRecentlyUsed, chooser


def _idle(name: str, idle_seconds: float) -> IdleModel:
    return IdleModel(name, name, 1, 1, idle_seconds, 300 - idle_seconds, 1.0)


class Biggest:
    """An operator's own: it goes by size, and keeps what is called `pinned`."""

    def order(self, idle: Sequence[IdleModel]) -> Sequence[IdleModel]:
        return sorted((model for model in idle if model.name != "pinned"), key=lambda model: -model.size)


class Needy:
    def __init__(self, option: str) -> None:
        self.order = option


def test_the_least_recently_used_goes_first() -> None:
    idle = [_idle("b", 5), _idle("oldest", 60), _idle("newest", 0), _idle("a", 5)]
    assert [model.name for model in LeastRecentlyUsed().order(idle)] == ["oldest", "a", "b", "newest"]
    assert [model.name for model in idle] == ["b", "oldest", "newest", "a"]


def test_choosers_are_found_by_name() -> None:
    assert isinstance(chooser("mlx_ollama.policies.eviction:LeastRecentlyUsed"), LeastRecentlyUsed)
    assert isinstance(chooser(f"{__name__}:Biggest"), Biggest)


def test_a_chooser_may_lie_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (source,) = re.findall(r"(?m)^    class BiggestFirst:\n(?:        .*\n)+", readme)
    (tmp_path / "choosers.py").write_text(textwrap.dedent(source))
    idle = [replace(_idle(name, 5), size=size) for name, size in (("small", 1), ("large", 3), ("middle", 2))]
    ordered = chooser("choosers:BiggestFirst", tmp_path).order(idle)
    assert [model.name for model in ordered] == ["large", "middle", "small"]


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("LeastRecentlyUsed", "is not of the form package.module:Class"),
        ("no.such.module:X", "ModuleNotFoundError: No module named 'no'"),
        (f"{__name__}:Smallest", "has no attribute 'Smallest'"),
        (f"{__name__}:Needy", "missing 1 required positional argument"),
        ("builtins:dict", "builtins:dict has no method order(idle)"),
    ],
)
def test_what_is_no_chooser_is_refused_by_name(named: str, words: str) -> None:
    with pytest.raises(NotAChooser) as refused:
        chooser(named)
    assert words in str(refused.value)
