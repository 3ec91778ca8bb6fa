"""Locks that are files: of several who want one, one has it at a time. And what has its name is on the disk."""

import threading
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from mlx_ollama.models.files import locked, publish
from tests.support.server import wait_until
from tests.support.syncs import Syncs


def test_who_waits_for_a_lock_holds_the_file_that_others_will_find(tmp_path: Path) -> None:
    path, held, free = tmp_path / "lock", threading.Event(), threading.Event()

    def wait() -> None:
        with locked(path):
            held.set()
            free.wait(30)

    waiting = threading.Thread(target=wait)
    with ExitStack() as first:
        first.enter_context(locked(path))
        waiting.start()
        wait_until(lambda: [file.path for file in psutil.Process().open_files()].count(str(path)) == 2, "the second")
        assert not held.is_set()
    assert held.wait(30)
    assert path.is_file()
    free.set()
    waiting.join()
    assert not path.exists()


def test_a_folder_and_all_in_it_are_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial, destination = tmp_path / "partial", tmp_path / "whole"
    (partial / "deep").mkdir(parents=True)
    (partial / "deep" / "file").write_text("content")
    (partial / "link").symlink_to(tmp_path / "nowhere")
    syncs = Syncs(destination, monkeypatch)
    publish(partial, destination)
    assert all(map(syncs.is_before, [destination, destination / "deep", destination / "deep" / "file"]))
    assert syncs.is_after(tmp_path)
    assert not partial.exists()
