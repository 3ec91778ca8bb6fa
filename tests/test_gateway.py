"""The gateway over HTTP with a tiny model: what the recordings do not hold."""

import asyncio
import ctypes
import http.client
import json
import shutil
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.cli import import_model
from tests.support.libraries import libraries
from tests.support.server import Server, serving


def _send(server: Server, content: bytes) -> bytes:
    with socket.create_connection((server.host, server.port), timeout=10) as connection:
        received = b""
        with suppress(ConnectionError, OSError):  # the server may close before it has heard everything
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(1 << 16):
                received += piece
    return received


def _has_openblas() -> bool:
    try:
        ctypes.CDLL("libopenblas.so.0")
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_openblas(), reason="there is no OpenBLAS")
def test_a_worker_computes_with_openblas_where_there_is_one(tiny: Server) -> None:
    assert tiny.post("/api/generate", {"model": "tiny"}).status_code == 200
    (worker,) = tiny.workers()
    assert "libopenblas" in libraries(worker)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has a BLAS of its own")
def test_a_worker_answers_without_openblas(tiny_home: Path, tmp_path: Path) -> None:
    """An empty file is what the loader finds first under that name, and it is no library."""
    (tmp_path / "libopenblas.so.0").touch()
    question = {"model": "tiny", "prompt": "bada", "stream": False, "options": {"num_predict": 3}}
    with serving(tiny_home, env={"LD_LIBRARY_PATH": str(tmp_path)}) as server:
        answer = server.post("/api/generate", question)
        assert (answer.status_code, answer.json()["eval_count"]) == (200, 3)
        (worker,) = server.workers()
        assert "libopenblas" not in libraries(worker)


def test_the_live_gateway_has_no_mlx_in_it(tiny: Server) -> None:
    assert tiny.post("/api/generate", {"model": "tiny"}).status_code == 200
    gateways = libraries(psutil.Process(tiny.process.pid))
    assert not [word for word in ("mlx", "numpy", "tokenizers", "openblas") if word in gateways]
    (worker,) = tiny.workers()
    assert "mlx" in libraries(worker)


def test_headers_are_ollamas(tiny: Server) -> None:
    version = tiny.client.get("/api/version")
    assert set(version.headers) == {"content-type", "content-length", "date"}
    large = tiny.post("/api/show", {"model": "tiny", "verbose": True})
    assert large.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in large.headers


def test_a_connection_stays_open_until_it_has_been_idle_for_as_long_as_is_set(tmp_path: Path) -> None:
    idle = 1.5
    with serving(tmp_path, env={"MLX_API_CONNECTION_KEEP_ALIVE": str(idle)}) as server:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
        connection.connect()
        for pause in (0.8, 0.8, 0):
            connection.request("GET", "/api/version")
            assert connection.getresponse().read()
            answered = time.monotonic()
            time.sleep(pause)
        assert connection.sock.recv(1) == b""
        assert idle - 0.2 < time.monotonic() - answered < idle + 5
        connection.close()


def test_a_gpu_that_is_asked_for_and_not_there(tiny_home: Path) -> None:
    mx = pytest.importorskip("mlx.core")
    if mx.metal.is_available() or mx.cuda.is_available():
        pytest.skip("there is a GPU")
    message = "MLX_API_DEVICE is gpu, but MLX finds none here"
    with serving(tiny_home, "--device", "gpu") as server:
        refused = server.post("/api/generate", {"model": "tiny", "prompt": "x"})
        assert (refused.status_code, refused.json()) == (500, {"error": message})
        assert server.client.get("/api/version").status_code == 200
        assert f"tiny:latest cannot be loaded: {message}" in server.log.read_text()


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", ""])
def test_the_content_type_of_a_request_is_not_looked_at(tiny: Server, content_type: str) -> None:
    body = json.dumps(
        {"MODEL": "tiny", "prompt": "ra", "stream": None, "Options": {"NUM_PREDICT": 1, "num_predict": 2}}
    )
    answer = tiny.client.post("/api/generate?x=1", content=body, headers={"content-type": content_type})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-ndjson"


def test_chunked_bodies_are_read(tiny: Server) -> None:
    connection = http.client.HTTPConnection(tiny.host, tiny.port, timeout=30)
    pieces = [b'{"model":"tiny","pro', b'mpt":"ra","stream":false,', b'"options":{"num_predict":1}}']
    connection.request("POST", "/api/generate", body=iter(pieces), encode_chunked=True)
    assert json.loads(connection.getresponse().read())["eval_count"] == 1
    connection.close()


@pytest.mark.parametrize("path", ["/nowhere", "/api/tags", "/api/version"])
@pytest.mark.parametrize("host", ["localhost", "example.com"])
def test_a_body_in_many_pieces_that_nobody_wants(tiny: Server, path: str, host: str) -> None:
    chunks = b"".join(b"1\r\nx\r\n" for _ in range(100)) + b"0\r\n\r\n"
    connection = http.client.HTTPConnection(tiny.host, tiny.port, timeout=10)
    for _ in range(2):
        connection.putrequest("POST", path, skip_host=True)
        connection.putheader("host", host)
        connection.putheader("transfer-encoding", "chunked")
        connection.endheaders()
        connection.send(chunks)
        answer = connection.getresponse()
        assert answer.status in (403, 404, 405)
        answer.read()
    connection.close()


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (
            {"options": {"stop": ["x"] * 257}},
            400,
            'option "stop" has over 256 strings, or one of over 1024 characters',
        ),
        ({"format": {"description": "x" * 300_000}}, 400, "invalid format: more than 262144 bytes"),
        ({"format": {"type": "foo"}}, 400, "invalid format: Invalid type: foo"),
        ({"format": 5}, 500, 'invalid format: "5"; expected "json" or a valid JSON Schema object'),
        ({"images": ["aGk="]}, 400, "this model does not support image input"),
        ({"raw": True, "system": "x"}, 400, "raw mode does not support template, system, or context"),
        ({"suffix": "x"}, 400, "registry.ollama.ai/library/tiny:latest does not support insert"),
        ({"options": {"temperature": "hot"}}, 500, 'option "temperature" must be of type float32'),
        ({"model": "tiny:cloud"}, 403, "ollama cloud is disabled: remote model is unavailable"),
        (
            {"context": [1.5]},
            400,
            "json: cannot unmarshal number 1.5 into Go struct field GenerateRequest.context of type int",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    tiny: Server, body: dict[str, object], status: int, message: str
) -> None:
    refused = tiny.post("/api/generate", {"model": "tiny", "prompt": "x", **body})
    assert (refused.status_code, refused.json()) == (status, {"error": message})


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        ('{"maximum":1e400}', "json: cannot unmarshal number 1e400 into Go value of type float64"),
        ('{"a":' * 400 + "1" + "}" * 400, "exceeded max depth"),
    ],
    ids=["endless", "deep"],
)
def test_schemas_that_cannot_be_written_are_the_callers_fault(tiny: Server, schema: str, complaint: str) -> None:
    content = '{"model":"tiny","prompt":"x","format":' + schema + "}"
    refused = tiny.client.post("/api/generate", content=content)
    assert (refused.status_code, refused.json()) == (400, {"error": complaint})


@pytest.mark.parametrize("stream", [True, False])
def test_options_without_effect_are_named(tiny: Server, stream: bool) -> None:
    options = {"num_predict": 1, "num_gpu": 99, "mirostat": 1, "sch\u00f6n\r\n": 1, "num_thread": None}
    answer = tiny.post("/api/generate", {"model": "tiny", "prompt": "x", "stream": stream, "options": options})
    assert answer.status_code == 200
    assert answer.headers["x-mlx-ollama-ignored"] == "num_gpu, mirostat, sch\\xf6n\\r\\n"
    options = {"num_predict": 1, "temperature": 1}
    answer = tiny.post("/api/generate", {"model": "tiny", "prompt": "x", "stream": stream, "options": options})
    assert "x-mlx-ollama-ignored" not in answer.headers


def test_strict_refuses_options_without_effect(tiny_home: Path) -> None:
    with serving(tiny_home, env={"MLX_API_STRICT": "1"}) as server:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "options": {"num_predict": 1}}
        assert server.post("/api/chat", body).status_code == 200
        refused = server.post("/api/chat", {**body, "options": {"num_gpu": 1, "nope": 2}})
        message = 'without effect on this server (MLX_API_STRICT): "num_gpu", "nope"'
        assert (refused.status_code, refused.json()) == (400, {"error": message})


@pytest.mark.parametrize(
    ("members", "content_type"),
    [
        ({"template": "{{ .X"}, "application/json; charset=utf-8"),
        ({"format": "xml"}, "application/json"),
        ({"format": "xml", "stream": False}, "application/json; charset=utf-8"),
        ({"model": "nope"}, "application/json; charset=utf-8"),
    ],
)
def test_what_is_refused_says_how_far_it_came(tiny: Server, members: dict[str, object], content_type: str) -> None:
    refused = tiny.post("/api/generate", {"model": "tiny", "prompt": "x", **members})
    assert refused.status_code >= 400
    assert refused.headers["content-type"] == content_type


def test_nulls_and_empty_values_are_unset(tiny: Server) -> None:
    body = {"model": "tiny", "prompt": "ra", "stream": False, "options": {"num_predict": 1, "stop": None}}
    unset: dict[str, object] = {
        "format": "",
        "think": None,
        "images": [],
        "context": None,
        "keep_alive": None,
        "system": "",
        "raw": None,
    }
    assert tiny.post("/api/generate", {**body, **unset}).json()["eval_count"] == 1
    assert tiny.post("/api/chat", {"model": "tiny", "messages": None, "options": None}).json()["done_reason"] == "load"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: nonsense\r\n\r\n{}",
        b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 3_000_000 + b"\r\n\r\n",
        b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{",
    ],
)
def test_garbage_does_not_hurt(tiny: Server, request_bytes: bytes) -> None:
    _send(tiny, request_bytes)
    assert tiny.client.get("/api/version").status_code == 200


def test_long_headers_are_taken_as_go_takes_them(tiny: Server) -> None:
    assert tiny.client.get("/api/version", headers={"cookie": "x" * 100_000}).status_code == 200


def test_many_connections_may_be_open(tiny: Server) -> None:
    soft, hard = psutil.Process(tiny.process.pid).rlimit(psutil.RLIMIT_NOFILE)
    assert soft >= min(10_240, hard)


def test_deep_and_long_json(tiny: Server) -> None:
    deep = b'{"model":"tiny","options":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}"
    assert tiny.client.post("/api/chat", content=deep).json() == {"error": "exceeded max depth"}
    long = tiny.post("/api/chat", {"model": "x" * 1_000_000, "messages": []})
    assert (long.status_code, long.json()) == (400, {"error": "invalid model name"})


def test_requests_that_would_hurt_others_are_refused_alone(tiny: Server) -> None:
    nested = '{"a":' + "[" * 300 + "]" * 300 + "}"
    call = '{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":' + nested + "}}]}"
    bodies = {
        '{"model":"tiny","prompt":"x","options":{"temperature":1e999}}': 400,
        '{"model":"tiny","prompt":"x","stream":false,"context":[-1,99999999999],"options":{"num_predict":1}}': 200,
        '{"model":"tiny","prompt":"x","format":' + "[" * 300 + "]" * 300 + "}": 400,
        '{"model":"tiny","prompt":"' + "a" * 5_000_000: 400,
    }
    for body, status in bodies.items():
        answer = tiny.client.post("/api/generate", content=body)
        assert answer.status_code == status, body[:80]
        assert "internal server error" not in answer.text
    deep = tiny.client.post("/api/chat", content='{"model":"tiny","messages":[' + call + "]}")
    assert deep.status_code == 400
    assert "exceeded max depth" in deep.json()["error"]


def test_ten_bodies_at_once_join_one_batch(tiny: Server) -> None:
    async def ask(client: httpx.AsyncClient, prompt: str) -> str:
        body = {"model": "tiny", "prompt": prompt, "stream": False, "options": {"num_predict": 40}}
        return str((await client.post("/api/generate", json=body)).json()["response"])

    async def together(prompts: list[str]) -> list[str]:
        async with httpx.AsyncClient(base_url=tiny.url, timeout=60, trust_env=False) as client:
            return await asyncio.gather(*(ask(client, prompt) for prompt in prompts))

    prompts = [f"ba{letter} zuzu {letter}" for letter in "bcdfghjklm"]
    alone = [asyncio.run(together([prompt]))[0] for prompt in prompts]
    assert asyncio.run(together(prompts)) == alone
    assert len(set(alone)) == len(prompts)


@pytest.mark.parametrize(("method", "path"), [("GET", "/api/version"), ("POST", "/api/chat")])
def test_java_clients_may_ask_for_http_2(tiny: Server, method: str, path: str) -> None:
    body = b"" if method == "GET" else b'{"model":"tiny"}'
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
    settings = f"http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection((tiny.host, tiny.port), timeout=10) as connection:
        connection.sendall((head + settings).encode() + body)
        answer = connection.recv(1 << 16)
    assert answer.startswith((b"HTTP/1.1 101", b"HTTP/1.1 200"))


def test_a_model_whose_weights_have_moved_away(tiny_directory: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(tiny_directory, moved)
    import_model(tmp_path / "home", "moved", moved)
    with serving(tmp_path / "home") as server:
        moved.rename(tmp_path / "elsewhere")
        assert server.client.get("/api/tags").json()["models"][0]["name"] == "moved:latest"
        for path, body in (("/api/show", {"model": "moved"}), ("/api/generate", {"model": "moved", "prompt": "x"})):
            refused = server.post(path, body)
            assert (refused.status_code, refused.headers["content-type"]) == (500, "application/json; charset=utf-8")
            assert str(moved) in refused.json()["error"]


@pytest.mark.parametrize(
    ("path", "status", "location"),
    [("//api/tags", 307, "/api/tags"), ("///api///tags", 307, "/api/tags"), ("///nothing", 404, "")],
)
def test_slashes_too_many_lead_to_the_clean_path(tiny: Server, path: str, status: int, location: str) -> None:
    sent = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    head, *_ = _send(tiny, sent.encode()).split(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert (f"location: {location}".encode() in head) == bool(location)


@pytest.mark.parametrize("path", ["/api/tags", "//api/tags"])
def test_a_websocket_finds_nobody(tiny: Server, path: str) -> None:
    key = {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", **key}
    assert httpx.get(tiny.url + path, headers=upgrade, trust_env=False).status_code == 404
    assert "Traceback" not in tiny.log.read_text()
