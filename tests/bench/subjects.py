"""The models that are measured with, made once for a run."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer

from tests.support.server import run_cli
from tests.support.tiny import widened, write_tiny_model

VOCABULARY = 8192
WORDS = ["river", "stone", "morning", "letter", "window", "garden", "silver", "winter", "market", "bridge", "captain"]


@dataclass(frozen=True)
class Subject:
    """A model, called `name` by our server; `tokens` is how many each answer may have where rates are measured."""

    directory: Path
    home: Path
    tokens: int
    name: str = "bench"

    def prompts(self, seed: object, count: int) -> list[str]:
        """Prompts of 16 words, the same for the same seed."""
        generator = random.Random(str(seed))
        return [" ".join(generator.choices(WORDS, k=16)) for _ in range(count)]

    def prompt(self, seed: object, tokens: int) -> str:
        """A prompt of that many tokens, or a word more."""
        generator = random.Random(str(seed))
        tokenizer = Tokenizer.from_file(str(self.directory / "tokenizer.json"))
        words = generator.choices(WORDS, k=tokens)
        ends = [len(encoding) for encoding in tokenizer.encode_batch([f" {word}" for word in words])]
        total = 0
        for count, length in enumerate(ends, 1):
            total += length
            if total >= tokens:
                return " ".join(words[:count])
        raise AssertionError("a word of no tokens")


@dataclass
class Subjects:
    """Models in `folder`, each made when it is first asked for."""

    folder: Path
    _made: dict[str, Subject] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Subject:
        if name not in self._made:
            self._made[name] = MAKERS[name](self.folder / name)
        return self._made[name]


def _two_layer(folder: Path) -> Subject:
    directory = write_tiny_model(folder / "model", hidden=512, heads=8, vocabulary=VOCABULARY)
    return _registered(directory, folder / "home", 256)


def _wide(folder: Path) -> Subject:
    """It reads 4,000 tokens in several seconds on two cores."""
    directory = write_tiny_model(folder / "model", hidden=1024, layers=3, heads=8, vocabulary=VOCABULARY)
    return _registered(directory, folder / "home", 128)


def _demo(folder: Path) -> Subject:
    made = run_cli("demo", "--home", str(folder / "home"))
    assert made.returncode == 0, made.stderr
    converted = next((folder / "home" / "converted").iterdir())
    return _registered(widened(converted, folder / "model"), folder / "home", 64)


def _registered(directory: Path, home: Path, tokens: int) -> Subject:
    subject = Subject(directory, home, tokens)
    made = run_cli("import", subject.name, str(directory), "--home", str(home))
    assert made.returncode == 0, made.stderr
    return subject


MAKERS: dict[str, Callable[[Path], Subject]] = {"two-layer": _two_layer, "wide": _wide, "demo": _demo}
