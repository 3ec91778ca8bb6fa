"""The log: one line per event, plain or JSON, written by a thread of its own so that no request ever waits for it."""

import json
import logging
import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, TextIO

from mlx_ollama.records import current
from mlx_ollama.settings import Settings

MOST_WAITING = 10_000
"""Lines that may wait for a slow disk or terminal; more are counted and lost."""

LAST_WORDS_SECONDS = 2.0
"""How long the end of the server waits for lines that nobody takes."""

COMPLAIN_SECONDS = 60.0
"""Between two complaints about a log file that cannot be written."""

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_ESCAPES |= {0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029"}


@contextmanager
def writing(settings: Settings) -> Iterator[None]:
    """Log as the settings say until the block ends; what was logged by then is written, if it can be."""
    sink: logging.Handler = StandardError()
    if settings.log_file:
        sink = LogFile(Path(settings.log_file).expanduser(), settings.log_size, settings.log_count)
    handler = LineHandler(sink)
    handler.setFormatter(formatter(settings.log_format))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    logging.captureWarnings(capture=True)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def to_gateway(level: str) -> None:
    """Log as a worker does: on standard error, in the form that its gateway reads (`workerlog`)."""
    handler = StandardError()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def formatter(name: str) -> logging.Formatter:
    """The formatter of `MLX_API_LOG_FORMAT`."""
    return JsonFormatter() if name == "json" else PlainFormatter()


def facts_of(record: logging.LogRecord) -> dict[str, Any]:
    """What a record says beside its message: `extra={"facts": {…}}`, and the request in whose service it was made.

    `extra={"told": (…)}` names facts that the message has in it, and that a plain line need not repeat.
    """
    facts: Mapping[str, Any] = getattr(record, "facts", {})
    request = current.get()
    if request is not None and not request.is_over and "request_id" not in facts:
        return {"request_id": request.id, **facts}
    return dict(facts)


class PlainFormatter(logging.Formatter):
    """`2026-01-31 12:00:00,000 INFO message key=value …`; whatever would begin a new line is escaped."""

    def format(self, record: logging.LogRecord) -> str:
        words = [self.formatTime(record), record.levelname, record.getMessage()]
        told = getattr(record, "told", ())
        words += [f"{key}={_plain(value)}" for key, value in facts_of(record).items() if key not in told]
        if trace := _trace(self, record):
            words.append(trace)
        return " ".join(words).translate(_ESCAPES)


class JsonFormatter(logging.Formatter):
    """An object with `time` (RFC 3339, UTC), `level`, `logger`, `message`, then the facts; ASCII on one line."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": when.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if trace := _trace(self, record):
            line["exception"] = trace
        return json.dumps(facts_of(record) | line, default=str)


class LineHandler(logging.Handler):
    """Formats here, where the request is known, and leaves the writing to `sink` in another thread."""

    def __init__(self, sink: logging.Handler) -> None:
        super().__init__()
        self._sink = sink
        self._lines: queue.Queue[logging.LogRecord | None] = queue.Queue(MOST_WAITING)
        self._lost = 0
        # A daemon: standard error may be a pipe that nobody reads any more.
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = _line(self.format(record))
        # As in every handler: a line that cannot be formatted is a fault of ours, and no reason to fail a request.
        except Exception:  # noqa: BLE001 - see above
            self.handleError(record)
            return
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._lost += 1

    def close(self) -> None:
        with suppress(queue.Full):
            self._lines.put(None, timeout=LAST_WORDS_SECONDS)
            self._writer.join(LAST_WORDS_SECONDS)
        super().close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            self._sink.emit(line)
            if self._lost:
                lost, self._lost = self._lost, 0
                notice = logging.LogRecord(__name__, logging.WARNING, "", 0, f"{lost} lines were lost", None, None)
                self._sink.emit(_line(self.format(notice)))
        with suppress(OSError):
            self._sink.close()


class StandardError(logging.StreamHandler[TextIO]):
    """Lines on standard error; those that cannot be written are lost without a word, as there is nowhere to say it."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is of logging
        return


class LogFile(RotatingFileHandler):
    """Lines in a file of at most `size` bytes, and `count` older ones beside it as `….1`, `….2`, …

    What cannot be written there, for want of space or of leave, goes to standard error.
    """

    def __init__(self, path: Path, size: int, count: int) -> None:
        super().__init__(path, "a", size, count, "utf-8", delay=True, errors="backslashreplace")
        self._fallback = StandardError()
        self._complained = -float("inf")

    def _open(self) -> Any:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is of logging
        now = time.monotonic()
        if now - self._complained >= COMPLAIN_SECONDS:
            self._complained = now
            self._fallback.emit(_line(f"the log cannot be written to {self.baseFilename}: {sys.exc_info()[1]}"))
        self._fallback.emit(record)


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return record.exc_text or (formatter.formatException(record.exc_info) if record.exc_info else "")


def _line(text: str) -> logging.LogRecord:
    """A record whose message is the whole line."""
    return logging.LogRecord(__name__, logging.INFO, "", 0, text, None, None)


def _plain(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if not text or set(' "=\\') & set(text) else text
