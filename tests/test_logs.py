"""The log: one line per event, whatever happens; and no request ever waits for it."""

import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlx_ollama.logs import JsonFormatter, LineHandler, LogFile, PlainFormatter
from mlx_ollama.records import sane_id
from mlx_ollama.workerlog import WorkerLog
from tests.support.cli import import_model
from tests.support.server import Server, clean_environment, serving, wait_until

JSON = {"MLX_API_LOG_FORMAT": "json"}


def _lines(log: Path) -> list[dict[str, Any]]:
    """Every whole line as JSON."""
    return [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _line(server: Server, **wanted: Any) -> dict[str, Any]:
    """The first line with these facts, as soon as it is written."""

    def found() -> list[dict[str, Any]]:
        return [line for line in _lines(server.log) if wanted.items() <= line.items()]

    return dict(wait_until(found, f"the line {wanted}")[0])


def test_a_request_is_a_line_with_its_tokens_and_times(tiny_home: Path, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(tiny_home / "models")
    with serving(tmp_path, env=JSON) as server:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "options": {"num_predict": 5}}
        answer = server.lines("/api/chat", body)[-1]
        line = _line(server, path="/api/chat")
        known = {"level": "info", "message": "POST /api/chat 200", "method": "POST", "status": 200, "model": "tiny"}
        assert known.items() <= line.items()
        assert (line["tokens_in"], line["tokens_out"]) == (answer["prompt_eval_count"], answer["eval_count"])
        assert line["client"] == "127.0.0.1"
        assert line["time"].endswith("Z")
        assert 0 <= line["queue_ms"] < line["load_ms"] < line["first_token_ms"] < line["total_ms"]
        assert line["load_ms"] == pytest.approx(answer["load_duration"] / 1e6, abs=0.1)
        # The load is told in the name of the request that asked for it.
        loaded = next(line for line in _lines(server.log) if " loaded in " in line["message"])
        assert loaded["request_id"] == line["request_id"]

        whole = server.post("/v1/chat/completions", {**body, "options": {}, "max_tokens": 3}).json()
        line = _line(server, path="/v1/chat/completions")
        assert (line["tokens_in"], line["tokens_out"]) == (whole["usage"]["prompt_tokens"], 3)
        assert line["request_id"] != loaded["request_id"]

        assert server.post("/api/embed", {"model": "tiny", "input": "hi"}).status_code == 501
        assert "does not support embeddings" in _line(server, path="/api/embed")["error"]

        server.post("/api/chat", {"model": "nope"})
        refused = _line(server, path="/api/chat", status=404)
        assert refused["level"] == "info"
        assert (refused["model"], refused["error"]) == ("nope", "model 'nope' not found")
        assert "tokens_in" not in refused
        assert server.stop() == 0
        assert all({"time", "level", "logger", "message"} <= line.keys() for line in _lines(server.log))


def test_a_request_may_bring_its_id(tiny: Server) -> None:
    sent = httpx.get(f"{tiny.url}/api/tags", headers={"X-Request-Id": "trace-7:a/b"}, trust_env=False)
    assert sent.headers["x-request-id"] == "trace-7:a/b"
    wait_until(lambda: "GET /api/tags 200 request_id=trace-7:a/b client=127.0.0.1" in tiny.log.read_text(), "its line")
    # The reference tells none, and neither do we, unasked or asked with something that has no place in a log.
    assert "x-request-id" not in tiny.client.get("/api/tags").headers
    for bad in ("a b", 'x" status=200', "x" * 200, "\x1b[31mred"):
        answer = httpx.get(f"{tiny.url}/api/tags", headers={b"X-Request-Id": bad.encode()}, trust_env=False)
        assert answer.status_code in (200, 400)
        assert "x-request-id" not in answer.headers
    assert "[31m" not in tiny.log.read_text()


def test_a_name_of_any_length_takes_little_of_the_log(tiny: Server) -> None:
    before = tiny.log.stat().st_size
    assert tiny.post("/api/chat", {"model": "a" * 1_000_000}).status_code == 400
    wait_until(lambda: "POST /api/chat 400" in tiny.log.read_text()[before:], "its line")
    assert tiny.log.stat().st_size - before < 5000


@pytest.mark.parametrize("bad", ["", " ", "a b", "-x", "a\nb", "a\x00", "ä", "x" * 129])
def test_what_is_no_id(bad: str) -> None:
    assert sane_id(bad) == ""
    assert sane_id("4bf92f3577b34da6-" + "x" * 100) != ""


def test_debugging_tells_every_client_its_id(tmp_path: Path) -> None:
    with serving(tmp_path, env={"MLX_API_LOG_LEVEL": "debug"}) as server:
        told = server.client.get("/api/version").headers["x-request-id"]
        wait_until(lambda: f"request_id={told}" in server.log.read_text(), "its line")


def test_what_workers_say_is_in_the_same_log(tiny_directory: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_directory.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    for name, directory in (("tiny", tiny_directory), ("broken", broken)):
        import_model(tmp_path, name, directory)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "hidden_size": 63}))
    noisy = {**JSON, "MLX_API_LOG_LEVEL": "debug", "PYTHONFAULTHANDLER": "1"}
    with serving(tmp_path, env=noisy) as server:
        assert server.post("/api/generate", {"model": "broken"}).status_code == 500
        failed = _line(server, message="loading failed")
        assert (failed["level"], failed["logger"]) == ("debug", "mlx_ollama.worker")
        assert failed["exception"].startswith("Traceback")
        assert isinstance(failed["worker"], int)

        assert server.post("/api/generate", {"model": "tiny"}).status_code == 200
        (worker,) = server.workers()
        worker.send_signal(signal.SIGABRT)
        last_words = _line(server, message="Fatal Python error: Aborted")
        assert (last_words["level"], last_words["worker"]) == ("warning", worker.pid)
        assert server.stop() == 0
        _lines(server.log)


def test_whatever_a_worker_says_is_lines(caplog: pytest.LogCaptureFixture) -> None:
    log = WorkerLog()
    log.worker = 7
    told = {"level": "debug", "message": "well", "logger": "a.b", "time": "2026-01-31T12:00:00.500Z", "n": 1}
    said = b"abort" + b"ing\n\n" + json.dumps(told).encode() + b'\n{"level": 1}\n' + b"[" * 60_000 + b"\n"
    for piece in (said[:7], said[7:40], said[40:], b"x" * 70_000, b"y\nafter\n", b"no end"):
        log.data_received(piece)
    log.connection_lost(None)
    messages = [record.getMessage() for record in caplog.records]
    assert messages[:3] == ["aborting", "well", '{"level": 1}']
    assert messages[3:] == ["[" * 60_000, "x" * 65_536, "after", "no end"]
    line = json.loads(JsonFormatter().format(caplog.records[1]))
    assert line == {**told, "worker": 7}
    assert [record.levelname for record in caplog.records[:2]] == ["WARNING", "DEBUG"]


def test_plain_lines_are_one_line_each(tmp_path: Path) -> None:
    record = logging.makeLogRecord(
        {
            "msg": "bad\n\x1b[31m%s",
            "args": ("news\u2028",),
            "levelname": "ERROR",
            "facts": {"a": "b c", "n": 1.5, "m": 2},
        }
    )
    try:
        raise ValueError("two\nlines")  # noqa: TRY301 - its trace is wanted
    except ValueError:
        record.exc_info = sys.exc_info()
    line = PlainFormatter().format(record)
    assert line.isprintable()
    assert r'ERROR bad\n\x1b[31mnews\u2028 a="b c" n=1.5 m=2 Traceback' in line
    assert line.endswith(r"ValueError: two\nlines")
    told = json.loads(JsonFormatter().format(record))
    assert (told["message"], told["a"], told["level"]) == ("bad\n\x1b[31mnews\u2028", "b c", "error")
    assert told["exception"].endswith("two\nlines")


def test_log_files_are_turned_over(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "server.log"
    small = {"MLX_API_LOG_FILE": str(log), "MLX_API_LOG_SIZE": "2000", "MLX_API_LOG_COUNT": "2"}
    with serving(tmp_path, env=small) as server:
        for _ in range(100):
            assert server.client.get("/api/version").status_code == 200
        assert server.stop() == 0
        assert server.log.read_text() == ""
    files = sorted(file.name for file in log.parent.iterdir())
    assert files == ["server.log", "server.log.1", "server.log.2"]
    assert all(file.stat().st_size <= 2000 for file in log.parent.iterdir())
    assert "stopping: 0 answers" in log.read_text()


def test_a_full_disk_costs_the_log_and_nothing_else(tiny_home: Path, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(tiny_home / "models")
    with serving(tmp_path, env={"MLX_API_LOG_FILE": "/dev/full"}) as server:
        for _ in range(3):
            assert server.post("/api/generate", {"model": "tiny", "options": {"num_predict": 2}}).status_code == 200
        assert server.stop() == 0
        said = server.log.read_text()
    assert said.count("the log cannot be written to /dev/full: [Errno 28] No space left on device") == 1
    assert said.count("POST /api/generate 200") == 3


def test_a_log_file_comes_back_when_there_is_room_again(tmp_path: Path) -> None:
    blocked = tmp_path / "logs"
    blocked.write_text("")
    file = LogFile(blocked / "server.log", 1000, 1)
    handler = LineHandler(file)
    handler.setFormatter(PlainFormatter())
    handler.emit(logging.makeLogRecord({"msg": "lost to the file"}))
    wait_until(handler._lines.empty, "the first line")
    time.sleep(0.05)
    blocked.unlink()
    handler.emit(logging.makeLogRecord({"msg": "welcome"}))
    handler.close()
    assert (blocked / "server.log").read_text().endswith("welcome\n")


def test_a_log_that_nobody_reads_holds_up_nobody(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mlx_ollama", "serve", "--port", "0", "--home", str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=clean_environment(), text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            url = process.stdout.readline().split()[-1]
            with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
                for _ in range(40):
                    # A pipe holds 64 KiB.
                    assert client.get("/" + "x" * 4000).status_code == 404
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
