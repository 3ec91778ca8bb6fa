"""A Hugging Face hub on loopback: listings, and large files that another host serves; with faults on demand."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.support.loopback import Loopback

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".gguf")


class LocalHub(Loopback):
    """Serves `repositories`, files by name; where `token` is set, to those who show it.

    `statuses` answers paths with errors, one after the other, the last one for ever; 0 is none. The first downloads of
    large files break off after so many bytes as `breaks` says, or stop there for good if `stalls`; `pace` is seconds
    between two of their sixteen pieces. Files in `changed` are sent instead of what is listed; large files that are in
    `pretended` are listed as that long, and are zeros. No answer has more bytes than `most`. `requests`, `ranges` and
    `shown_tokens` are what was asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begin_anew({})

    def begin_anew(self, repositories: Mapping[str, Mapping[str, bytes]]) -> None:
        """Repositories, and no faults."""
        self.repositories = {name: dict(files) for name, files in repositories.items()}
        self.revisions = {"main", COMMIT}
        self.token = ""
        self.breaks: list[int] = []
        self.stalls = False
        self.pace = 0.0
        self.statuses: dict[str, list[int]] = {}
        self.changed: dict[str, bytes] = {}
        self.pretended: dict[str, int] = {}
        self.most = 50_000_000_000
        self.requests: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.shown_tokens: dict[str, str] = {}

    def environment(self, folder: Path) -> dict[str, str]:
        """What makes a process use this hub, with a cache in `folder`."""
        return {
            "HF_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "HF_HOME": str(folder),
            "HF_HUB_DOWNLOAD_TIMEOUT": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "MLX_API_REGISTRY": f"http://127.0.0.1:{self.port}",
        }

    def downloads(self, repository: str) -> int:
        """How often large files of it were asked for."""
        return sum(count for path, count in self.requests.items() if path.startswith(f"GET /cdn/{repository}/"))

    def listing(self, repository: str) -> dict[str, Any]:
        files = self.repositories[repository]
        return {
            "id": repository,
            "sha": COMMIT,
            "siblings": [self.entry(name, content) for name, content in files.items()],
        }

    def entry(self, name: str, content: bytes) -> dict[str, Any]:
        """What a listing says of a file."""
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        size = self.pretended.get(name, len(content))
        entry: dict[str, Any] = {"rfilename": name, "size": size, "blobId": blob}
        if name.endswith(LARGE):
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"size": size, "sha256": digest, "pointerSize": 134}
        return entry

    def find(self, path: str) -> tuple[str, bytes] | None:
        """Name and content of the file at a `resolve` path."""
        repository, _, rest = path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        content = self.repositories.get(repository, {}).get(name)
        return (name, content) if content is not None and revision in self.revisions else None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._route()

            def do_GET(self) -> None:
                self._route()

            def log_message(self, *_: Any) -> None:
                pass

            def _route(self) -> None:
                path = unquote(urlsplit(self.path).path)
                hub.requests[f"{self.command} {path}"] += 1
                hub.shown_tokens[path] = self.headers.get("authorization", "")
                statuses = hub.statuses.get(path, [0])
                if status := statuses.pop(0) if len(statuses) > 1 else statuses[0]:
                    return self._answer(status, b"boom")
                if path.startswith("/cdn/"):
                    return self._large(path)
                if hub.token and self.headers.get("authorization") != f"Bearer {hub.token}":
                    return self._answer(401, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
                if path.startswith("/api/models/"):
                    return self._listing(path.removeprefix("/api/models/"))
                return self._resolve(path)

            def _listing(self, path: str) -> None:
                repository, _, revision = path.partition("/revision/")
                if repository not in hub.repositories:
                    # Who shows no token is not told whether there is one that is private.
                    status = 404 if self.headers.get("authorization") else 401
                    return self._answer(status, b"{}", {"X-Error-Code": "RepoNotFound"})
                if revision and revision not in hub.revisions:
                    return self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return self._answer(200, json.dumps(hub.listing(repository)).encode())

            def _resolve(self, path: str) -> None:
                found = hub.find(path)
                if found is None:
                    return self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
                name, content = found
                entry = hub.entry(name, content)
                headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{entry["blobId"]}"'}
                if "lfs" not in entry:
                    return self._answer(200, hub.changed.get(name, content), headers)
                large = {"X-Linked-Size": str(entry["size"]), "X-Linked-Etag": f'"{entry["lfs"]["sha256"]}"'}
                # Another host, which must not be shown the token.
                place = f"http://localhost:{hub.port}/cdn{path}"
                return self._answer(302, b"", {**headers, **large, "Location": place})

            def _large(self, path: str) -> None:
                found = hub.find(path.removeprefix("/cdn"))
                if found is None:
                    return self._answer(404, b"")
                name, content = found
                content = hub.changed.get(name, content)
                size = hub.pretended.get(name, len(content))
                begin, end = 0, size
                if span := self.headers.get("Range"):
                    hub.ranges.append(span)
                    first, _, last = span.removeprefix("bytes=").partition("-")
                    begin, end = int(first), min(size, int(last) + 1) if last else size
                if begin >= size:
                    return self._answer(416, b"")
                if end - begin > hub.most:
                    return self._answer(400, b"")
                self.send_response(206 if span else 200)
                self.send_header("Content-Length", str(end - begin))
                if span:
                    self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
                self.end_headers()
                if self.command == "HEAD":
                    return None
                wanted, end = end, min(end, begin + hub.breaks.pop(0)) if hub.breaks else end
                self._send(bytes(end - begin) if name in hub.pretended else content[begin:end])
                if end < wanted:
                    if hub.stalls:
                        hub.over.wait()
                    self.close_connection = True
                return None

            def _send(self, content: bytes) -> None:
                """Sixteen pieces, with `pace` seconds between them."""
                size = max(1, -(-len(content) // 16))
                for begin in range(0, len(content), size):
                    try:
                        self.wfile.write(content[begin : begin + size])
                    except OSError:
                        return
                    if hub.pace:
                        time.sleep(hub.pace)

            def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        return Handler
