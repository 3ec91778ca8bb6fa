"""Content by its SHA-256: `blobs/sha256-<hex>`, as Ollama keeps it (wire-spec 6.7)."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_ollama.errors import InvalidRequest
from mlx_ollama.models.files import PartialFile, partial_file, sweep

_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")
_PIECE_BYTES = 1 << 20

Counted = Callable[[int], None]
"""Told how many bytes are done."""


def check_digest(text: str) -> str:
    """The digest itself, with `:` or `-` as it was written.

    Raises:
        InvalidRequest: `invalid digest format`.
    """
    if not is_digest(text):
        raise InvalidRequest("invalid digest format")
    return text


def is_digest(text: str) -> bool:
    """Whether something has the form of a digest, and so names a blob and no other file."""
    return _DIGEST.fullmatch(text) is not None


def digest_of(path: Path, counted: Counted = lambda _: None) -> str:
    """The digest of a file, `sha256:<hex>`."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            done += len(piece)
            counted(done)
    return f"sha256:{digest.hexdigest()}"


class BlobWriter:
    """A blob that arrives in pieces."""

    def __init__(self, partial: PartialFile, place: Callable[[str], Path]) -> None:
        self._partial = partial
        self._place = place
        self._sha256 = hashlib.sha256()

    def write(self, piece: bytes) -> None:
        self._sha256.update(piece)
        self._partial.write(piece)

    def keep(self) -> str:
        """Put it in its place; the digest of what came."""
        digest = f"sha256:{self._sha256.hexdigest()}"
        self._partial.become(self._place(digest))
        return digest


class Blobs:
    """The blobs in `folder`. Several processes may write the same one at once: the content is the same."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, digest: str) -> Path:
        return self._folder / digest.replace(":", "-")

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def read(self, digest: str) -> bytes:
        return self.path(digest).read_bytes()

    def put(self, content: bytes) -> tuple[str, bool]:
        """Keep some content; its digest, and whether it was new.

        Raises:
            OSError: for want of room or rights.
        """
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if self.has(digest):
            return digest, False
        with self.writer() as blob:
            blob.write(content)
            blob.keep()
        return digest, True

    def add(self, path: Path, counted: Counted = lambda _: None) -> str:
        """Keep a file of this machine, by a hard link where the file system has them; its digest."""
        digest = digest_of(path, counted)
        if not self.has(digest) and not self._hard_link(path, digest):
            return self._copy(path)
        return digest

    def refer(self, path: Path, digest: str) -> None:
        """Keep a file whose digest is known already, without a copy: where it cannot be linked, say where it is."""
        if not self.has(digest) and not self._hard_link(path, digest):
            self.path(digest).unlink(missing_ok=True)
            self.path(digest).symlink_to(path.resolve())

    @contextmanager
    def writer(self) -> Iterator[BlobWriter]:
        """A blob to fill; it appears when it is kept."""
        with partial_file(self._folder) as partial:
            yield BlobWriter(partial, self.path)

    def remove(self, digest: str) -> None:
        self.path(digest).unlink(missing_ok=True)

    def remove_unused(self, used: frozenset[str], *, before: float) -> None:
        """Remove blobs that are not `used` and came `before` a time of the wall clock, in seconds."""
        names = {self.path(digest).name for digest in used}
        for path in self._folder.glob("sha256-*"):
            # A link to a file has the file's own times but for this one.
            if path.name not in names and is_digest(path.name) and path.lstat().st_ctime < before:
                path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what uploads that died have left."""
        sweep(self._folder)

    def _hard_link(self, path: Path, digest: str) -> bool:
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            # The file itself, where it is a link: some systems would link the link.
            os.link(path.resolve(), self.path(digest))
        except FileExistsError:
            return self.has(digest)
        except OSError:
            return False
        return True

    def _copy(self, path: Path) -> str:
        with path.open("rb") as file, self.writer() as blob:
            shutil.copyfileobj(file, blob, _PIECE_BYTES)
            return blob.keep()
