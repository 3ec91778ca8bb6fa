"""A registry on loopback that speaks Ollama's protocol over plain HTTP, with faults on demand."""

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from types import MappingProxyType
from typing import Any

from mlx_ollama.models.config import config_of
from mlx_ollama.models.manifest import CONFIG_TYPE, MODEL_TYPE, TEMPLATE_TYPE, Layer, Manifest, to_file
from tests.support.loopback import Loopback

TEMPLATE = b"{{ .Prompt }}"
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
HUGE = b" " * (64 << 20)


class LocalRegistry(Loopback):
    """Serves one model, `ns/m`; `ns/none`, `ns/err`, `ns/badjson`, `ns/unauth` fail in the ways of the recordings, and
    `ns/rude` in one that a terminal obeys. `ns/circle` is itself elsewhere; `ns/huge`, `ns/hugeerr`, `ns/hugemove` and
    `ns/packed` are more than anybody should read.

    `breaks` are byte counts after which the first downloads of a blob break off, or stop there for good if `stalls`;
    `redirects` sends them to another host, which speaks of no ranges if not `resumes`. `statuses` answers the first
    downloads with errors that say `error`. `requests` counts what was asked, `encodings` are those that were asked for.
    """

    def __init__(self, gguf: bytes) -> None:
        super().__init__()
        self.blobs: dict[str, bytes] = {}
        self.breaks: list[int] = []
        self.ranges: list[str] = []
        self.requests: Counter[str] = Counter()
        self.encodings: set[str] = set()
        self.statuses: list[int] = []
        self.error = b"boom"
        self.stalls = self.redirects = False
        self.resumes = True
        config = to_file(config_of("gguf", "llama", ["llama"], "1", "F16"))
        self.manifest = Manifest(
            self._layer(CONFIG_TYPE, config), (self._layer(MODEL_TYPE, gguf), self._layer(TEMPLATE_TYPE, TEMPLATE))
        )

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _layer(self, media_type: str, content: bytes) -> Layer:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blobs[digest] = content
        return Layer(media_type, digest, len(content))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.requests[self.path] += 1
                registry.encodings.add(self.headers.get("Accept-Encoding", ""))
                if self.path.startswith("/cdn/"):
                    return self._blob(self.path.removeprefix("/cdn/"))
                _, _, namespace, model, kind, reference = self.path.split("/")
                if kind == "manifests":
                    return self._answer(*registry._manifest(f"{namespace}/{model}"))
                if registry.statuses:
                    return self._answer(registry.statuses.pop(0), registry.error)
                if registry.redirects:
                    return self._redirect(f"http://localhost:{registry.port}/cdn/{reference}")
                return self._blob(reference)

            def _redirect(self, place: str) -> None:
                self.send_response(307)
                self.send_header("Location", place)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

            def _answer(self, status: int, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                # Nobody needs to read it to its end.
                with suppress(ConnectionError):
                    self.wfile.write(body)

            def _blob(self, digest: str) -> None:
                content = registry.blobs[digest]
                begin = 0
                span = self.headers.get("Range") if registry.resumes else None
                if span:
                    registry.ranges.append(span)
                    begin = int(span.removeprefix("bytes=").partition("-")[0])
                self.send_response(206 if span else 200)
                self.send_header("Content-Length", str(len(content) - begin))
                self.end_headers()
                end = len(content)
                if registry.breaks and len(content) > registry.breaks[0]:
                    end = begin + registry.breaks.pop(0)
                self.wfile.write(content[begin:end])
                if end < len(content) and registry.stalls:
                    self.wfile.flush()
                    registry.over.wait()

        return Handler

    def _manifest(self, model: str) -> tuple[int, bytes] | tuple[int, bytes, Mapping[str, str]]:
        match model:
            case "ns/none":
                return 404, b""
            case "ns/err":
                return 500, b"boom"
            case "ns/rude":
                return 500, b"\x1b]0;stolen\x07boom"
            case "ns/badjson":
                return 200, b"{nope"
            case "ns/huge":
                return 200, HUGE
            case "ns/hugeerr":
                return 500, HUGE
            case "ns/hugemove":
                return 307, HUGE, {"Location": f"http://{self.host}/v2/ns/m/manifests/latest"}
            case "ns/circle":
                return 307, b"", {"Location": f"http://{self.host}/v2/ns/circle/manifests/latest"}
            case "ns/packed":
                return 200, gzip.compress(HUGE), {"Content-Encoding": "gzip"}
            case "ns/unauth":
                return 401, b"{}"
            case _:
                return 200, json.dumps(json.loads(self.manifest.dump())).encode()
