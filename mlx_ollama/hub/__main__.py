"""Fetch a model: `python -m mlx_ollama.hub ORG/REPO TAG`.

It tells what it does as one JSON object a line: {"kind", "digest"} when it knows what it fetches, {"completed",
"total"} in bytes every now and then, {"kind", "digest", "path"} at the end; or {"error", "missing"} and exit status 1.
`kind` is "mlx" for a directory, "gguf" for one file; `missing` that the hub has nothing that could be used here. It may
be killed at any time; the next one goes on from there.
"""

import os
import sys
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars, logging

from mlx_ollama.hub.choice import LATEST, File, NothingUsable, gguf_file, has_gguf, has_weights, mlx_files
from mlx_ollama.hub.transfer import Transfer, TransferFailed, until_done
from mlx_ollama.telling import reason, tell

TICK_SECONDS = 0.1
SILENT_SECONDS = 1.0
"""A line comes at least this often, so that whoever reads can end the work, and its end is noticed here."""

_TIMEOUT_SECONDS = 30.0
_MAIN = "main"


def fetch(repository: str, tag: str) -> dict[str, Any]:
    """Bring a model into the cache and tell how far it is; where it lies.

    Raises:
        NothingUsable, TransferFailed, HTTPError, OSError: for what the user must know.
    """
    revision, commit, files = _listed(repository, tag)
    if has_gguf(files) and (tag != LATEST or not has_weights(files)):
        gguf = gguf_file(files, tag)
        plan, chosen = {"kind": "gguf", "digest": f"sha256:{gguf.sha256}"}, [gguf]
    else:
        plan, chosen = {"kind": "mlx", "digest": ""}, list(mlx_files(files))
    tell(plan)
    transfer = Transfer(repository, commit, chosen)
    _watch(transfer)
    transfer.name_commit(revision)
    place = transfer.snapshot / chosen[0].name if plan["kind"] == "gguf" else transfer.snapshot
    return {**plan, "path": str(place)}


def _listed(repository: str, tag: str) -> tuple[str, str, Sequence[File]]:
    """Revision, commit and files: a tag names a GGUF file where there are some, else a branch or a tag of git."""
    commit, files = _files(repository, _MAIN)
    if tag == LATEST or has_gguf(files):
        return _MAIN, commit, files
    return tag, *_files(repository, tag)


def _files(repository: str, revision: str) -> tuple[str, Sequence[File]]:
    info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=_TIMEOUT_SECONDS)
    if not info.sha:
        raise TransferFailed(f"{repository}: the hub names no commit")
    return info.sha, [
        File(
            entry.rfilename,
            entry.lfs.size if entry.lfs else entry.size or 0,
            entry.lfs.sha256 if entry.lfs else "",
            entry.blob_id or "",
        )
        for entry in info.siblings or ()
    ]


def _watch(transfer: Transfer) -> None:
    futures = transfer.begin()
    told, told_at = -1, time.monotonic()
    done = False
    while not done:
        done = until_done(futures, TICK_SECONDS)
        completed = transfer.total if done else transfer.completed
        if completed != told or time.monotonic() - told_at >= SILENT_SECONDS:
            told, told_at = completed, time.monotonic()
            tell({"completed": completed, "total": transfer.total})


def _words(error: Exception, repository: str) -> str:
    """What went wrong, and what to do, for people."""
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, HTTPError | OSError):
        # The hub's library says that the file is not here either.
        error = error.__cause__
    match error:
        case GatedRepoError():
            return f"{repository} is for those who have accepted its terms: do so on its page, and set HF_TOKEN"
        case RepositoryNotFoundError():
            hidden = error.response.status_code == HTTPStatus.UNAUTHORIZED
            return "file does not exist" + ("; what is private is shown to those who set HF_TOKEN" if hidden else "")
        case RevisionNotFoundError():
            return f"{repository} has no such branch or tag"
        case OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE forbids to ask the hub"
        case HfHubHTTPError():
            return f"{error.response.status_code}: {error.server_message or error.response.reason_phrase}"
        case HTTPError():
            return f"max retries exceeded: {str(error) or type(error).__name__}"
        case OSError():
            return reason(error)
    return str(error)


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    if len(arguments) != 2:  # noqa: PLR2004
        tell({"error": "usage: python -m mlx_ollama.hub ORG/REPO TAG", "missing": False})
        return 1
    repository, tag = arguments
    disable_progress_bars()
    logging.set_verbosity_error()
    try:
        tell(fetch(repository, tag))
    except BrokenPipeError:  # whoever asked is gone
        return 1
    except NothingUsable as error:
        tell({"error": f"{repository} cannot be used here: {error}", "missing": True})
        return 1
    except (TransferFailed, HFValidationError, HTTPError, OSError) as error:
        missing = isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError)
        tell({"error": _words(error, repository), "missing": missing})
        return 1
    return 0


if __name__ == "__main__":
    # Threads may wait for bytes that never come; nobody waits for them.
    os._exit(main(sys.argv[1:]))
