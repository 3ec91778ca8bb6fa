"""What reaches the disk, and when."""

import os
from pathlib import Path

import pytest


class Syncs:
    """Everything that this process has the system write out, before `published` is there and after."""

    def __init__(self, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._published = published
        self._before, self._after = set[int](), set[int]()
        self._really = os.fsync
        monkeypatch.setattr(os, "fsync", self._note)

    def is_before(self, path: Path) -> bool:
        """Whether what is at `path` now, whatever it was called then, was on the disk before the name was given."""
        return path.stat().st_ino in self._before

    def is_after(self, path: Path) -> bool:
        return path.stat().st_ino in self._after

    def _note(self, descriptor: int) -> None:
        self._really(descriptor)
        (self._after if self._published.exists() else self._before).add(os.fstat(descriptor).st_ino)
