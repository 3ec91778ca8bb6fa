"""Locks that are files: of several who want one, one has it at a time."""

import threading
from contextlib import ExitStack
from pathlib import Path

import psutil

from mlx_ollama.models.files import locked
from tests.support.server import wait_until


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
