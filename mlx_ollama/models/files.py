"""Files that appear whole or not at all, whoever writes beside us and wherever a crash falls."""

import fcntl
import glob
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

_PARTIAL = ".partial-"


def is_inside(name: str) -> bool:
    """Whether a file that a stranger names lies in the folder that it is meant for, or below."""
    path = PurePosixPath(name)
    return not (path.is_absolute() or ".." in path.parts or "\0" in name)


class PartialFile:
    """A file in the making, in the folder where it will be; locked, so that a dead writer's can be told from ours."""

    def __init__(self, folder: Path) -> None:
        handle, name = _temporary(folder)
        self._path = Path(name)
        self._file: BinaryIO = os.fdopen(handle, "wb")
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, piece: bytes) -> None:
        self._file.write(piece)

    def become(self, destination: Path) -> None:
        """Take the place of `destination`, once everything is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._path.replace(destination)
        to_disk(destination.parent)

    def close(self) -> None:
        """Let go; what has become nothing is removed."""
        self._path.unlink(missing_ok=True)
        # What did not fit on the disk is tried again here, and is not wanted any more.
        with suppress(OSError):
            self._file.close()


@contextmanager
def partial_file(folder: Path) -> Iterator[PartialFile]:
    partial = PartialFile(folder)
    try:
        yield partial
    finally:
        partial.close()


def replace(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one, never a part."""
    with partial_file(path.parent) as partial:
        partial.write(content)
        partial.become(path)


@contextmanager
def partial_directory(destination: Path) -> Iterator[Path]:
    """A folder beside `destination` to fill and publish; what is left of it at the end is removed.

    It is locked as a partial file is. What others have left who had the same destination goes first.
    """
    sweep(destination.parent, f"{destination.name}-")
    directory, lock = _locked_directory(destination)
    try:
        yield directory
    finally:
        os.close(lock)
        shutil.rmtree(directory, ignore_errors=True)


def sweep(folder: Path, beginning: str = "") -> None:
    """Remove what writers that are dead have left half done, if it was to get a name with that `beginning`."""
    for path in folder.glob(f"{_PARTIAL}{glob.escape(beginning)}*"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
            finally:
                os.close(descriptor)


def _locked_directory(destination: Path) -> tuple[Path, int]:
    while True:
        directory = destination.with_name(f"{_PARTIAL}{destination.name}-{secrets.token_hex(4)}")
        directory.mkdir()
        # Before it is locked somebody may take it for a dead writer's.
        with suppress(FileNotFoundError):
            lock = os.open(directory, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if directory.exists():
                return directory, lock
            os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, *, keep: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold the lock that is called `path`; a process that ends lets go of it, however it ends.

    It is waited for; without `wait`, False says that somebody else holds it. The file is removed by whoever has held
    it, unless they `keep` it for the many that will come.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            # Whoever held it has removed it: the next to come would lock another file of that name, beside us.
            if _is_at(path, file):
                try:
                    yield True
                finally:
                    if not keep:
                        path.unlink(missing_ok=True)
                return


def _is_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _temporary(folder: Path) -> tuple[int, str]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return tempfile.mkstemp(dir=folder, prefix=_PARTIAL)
    except FileNotFoundError:
        # Whoever removed the last file of the folder has just removed the folder, too.
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.mkstemp(dir=folder, prefix=_PARTIAL)


def publish(partial: Path, destination: Path) -> None:
    """Give a file, or a folder with all that is in it, the name by which it is taken to be whole.

    What it consists of must reach the disk before that, and the name after it: nobody looks at the content again.
    """
    for path in (*partial.rglob("*"), partial):
        # A link is a name; what it leads to is not ours.
        if not path.is_symlink():
            to_disk(path)
    partial.rename(destination)
    to_disk(destination.parent)


def to_disk(path: Path) -> None:
    """See to it that the bytes of a file, or the names in a folder, survive a crash."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
