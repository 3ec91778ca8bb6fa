"""One repository's files on their way into the cache that all tools of the hub share.

The hub's own library begins a large file anew whenever its process ends, and looks at nothing but its size. So large
files are brought into their place here, with its requests, and it finds them there.
"""

import hashlib
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from shutil import disk_usage

from huggingface_hub import constants, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers

from mlx_ollama.hub.choice import File
from mlx_ollama.models.files import publish, replace

ATTEMPTS = 4
"""So often a file is tried without a byte of it coming."""

PART_BYTES = 10 * 1000 * 1000 * 1000
"""The most that one request asks for: the hub answers none for 50 GB and more, and the library does not even ask."""

_FIRST_PAUSE_SECONDS = 1.0
_AT_ONCE = 4
_PIECE_BYTES = 1 << 18
_HASHED_BYTES = 1 << 20
_CLIENT_ERRORS = range(400, 500)
_OUT_OF_RANGE = 416

# Its ten megabytes are lost when a connection breaks, and many seconds of silence on slow lines.
constants.DOWNLOAD_CHUNK_SIZE = _PIECE_BYTES


class TransferFailed(Exception):
    """The files cannot be had, or are not what they should be; the message says why."""


class Transfer:
    """Brings `files` of `repository`, as they are in `commit`, into the cache, with requests for `part_bytes` each."""

    def __init__(self, repository: str, commit: str, files: Sequence[File], part_bytes: int = PART_BYTES) -> None:
        self._repository, self._commit, self._files, self._part_bytes = repository, commit, files, part_bytes
        self._folder: Path = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
        self._most = 0

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self._files)

    @property
    def completed(self) -> int:
        """Bytes that are here, as far as was ever reached: what must be fetched again is not taken back."""
        self._most = max(self._most, sum(self._present(file) for file in self._files))
        return self._most

    def begin(self) -> Sequence["Future[Path]"]:
        """Fetch in threads of this process, several files at once; each gives its place in the snapshot.

        Raises:
            TransferFailed: for want of room.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        missing, free = self.total - self.completed, disk_usage(self._folder).free
        if missing > free:
            raise TransferFailed(f"no room on disk: {missing} bytes are needed, {free} are free")
        pool = ThreadPoolExecutor(_AT_ONCE)
        # The largest first: what is left at the end is short.
        largest_first = sorted(self._files, key=lambda file: -file.size)
        return [pool.submit(self._bring, file) for file in largest_first]

    def name_commit(self, revision: str) -> None:
        """Tell other tools of the hub that this is what `revision` stands for; when all of it is here."""
        replace(self._folder / "refs" / revision, self._commit.encode())

    @property
    def snapshot(self) -> Path:
        """The folder in which every file has its name."""
        return self._folder / "snapshots" / self._commit

    def _present(self, file: File) -> int:
        if not file.sha256:
            return file.size if (self.snapshot / file.name).is_file() else 0
        for path in (self._blob(file), self._partial(file)):
            try:
                return min(file.size, path.stat().st_size)
            except OSError:
                continue
        return 0

    def _bring(self, file: File) -> Path:
        if file.sha256:
            self._bring_blob(file)
        path = Path(hf_hub_download(self._repository, file.name, revision=self._commit))
        if not file.sha256:
            _check(path, file)
        return path

    def _bring_blob(self, file: File) -> None:
        blob = self._blob(file)
        lock = Path(constants.HF_HUB_CACHE) / ".locks" / self._folder.name / f"{file.sha256}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        blob.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if blob.is_file():
                _check(blob, file)
                return
            partial = self._partial(file)
            self._fetch(file, partial)
            _check(partial, file)
            publish(partial, blob)

    def _fetch(self, file: File, partial: Path) -> None:
        """All of the file, from where an earlier attempt stopped."""
        attempt, before = 0, -1
        while (done := partial.stat().st_size if partial.is_file() else 0) != file.size:
            attempt, before = (attempt if done == before else 0), done
            try:
                self._request(file, partial, done)
            except (HTTPError, OSError) as error:
                attempt += 1
                if _is_final(error) or attempt >= ATTEMPTS:
                    raise
                time.sleep(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))

    def _request(self, file: File, partial: Path, done: int) -> None:
        if done > file.size:
            partial.unlink()
            raise TransferFailed(f"{file.name} is longer than the {file.size} bytes that it should have")
        url = hf_hub_url(self._repository, file.name, revision=self._commit)
        end = min(file.size, done + self._part_bytes)
        # Of the range's begin the library knows by `resume_size`.
        part = {"Range": f"bytes=0-{end - 1}"} if end < file.size else {}
        headers = build_hf_headers(library_name="mlx-ollama") | part
        with partial.open("ab", buffering=0) as stream:
            try:
                http_get(url, stream, resume_size=done, headers=headers, expected_size=end, _nb_retries=0)
            except HfHubHTTPError as error:
                if error.response.status_code == _OUT_OF_RANGE:
                    partial.unlink()
                raise

    def _blob(self, file: File) -> Path:
        return self._folder / "blobs" / file.sha256

    def _partial(self, file: File) -> Path:
        return self._folder / "blobs" / f"{file.sha256}.mlx-ollama.incomplete"


def until_done(futures: Iterable["Future[Path]"], seconds: float) -> bool:
    """Wait, no longer than that; whether all files are there.

    Raises:
        Exception: what the first one failed with.
    """
    done, pending = wait(futures, timeout=seconds, return_when="FIRST_EXCEPTION")
    for future in done:
        future.result()
    return not pending


def _is_final(error: Exception) -> bool:
    """Whether it would be the same again: refusals, and a disk that is full."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _CLIENT_ERRORS
    return isinstance(error, OSError) and error.errno is not None


def _check(path: Path, file: File) -> None:
    """Compare with what the hub says of it; what is wrong is removed, so that the next attempt is a new one."""
    size = path.stat().st_size
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(_HASHED_BYTES):
            digest.update(piece)
    wanted = file.sha256 or file.blob_id
    if wanted and digest.hexdigest() != wanted:
        path.resolve().unlink()
        raise TransferFailed(
            f"digest mismatch, file must be downloaded again: {file.name}: want {wanted}, got {digest.hexdigest()}"
        )
