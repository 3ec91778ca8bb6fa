"""What a worker says on standard error, brought into the gateway's log: one process writes, in one format."""

import asyncio
import json
import logging
import os
from contextlib import suppress
from datetime import datetime
from typing import Any

LONGEST_LINE_BYTES = 1 << 16
"""What is longer is cut: a library that goes mad must not fill our memory."""

NAME = "mlx_ollama.worker"


class WorkerLog(asyncio.Protocol):
    """Takes lines from a worker's standard error: its log as JSON (`logs.JsonFormatter`), all else as warnings.

    All else is what Python and the libraries below it say when they die. `worker` is the process id, once it is known.
    """

    def __init__(self) -> None:
        self.worker: int | None = None
        self._rest = b""
        self._is_cut = False
        self._transport: asyncio.BaseTransport | None = None
        self._ended = asyncio.Event()

    @classmethod
    async def open(cls) -> "tuple[int, WorkerLog]":
        """A descriptor for the worker, which the caller closes, and the log that reads from it until its end.

        The pipe is ours and not asyncio's, where whoever inherits it keeps a dead process from being seen as such.
        """
        readable, writable = os.pipe()
        _, log = await asyncio.get_running_loop().connect_read_pipe(cls, os.fdopen(readable, "rb", 0))
        return writable, log

    async def end(self, within: float) -> None:
        """Take what a dead worker has said, and wait no longer than `within` seconds for others who might hold it."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), within)
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line)
        if len(self._rest) >= LONGEST_LINE_BYTES:
            self._take(self._rest)
            self._rest, self._is_cut = b"", True

    def connection_lost(self, exc: Exception | None) -> None:
        self._take(self._rest)
        self._ended.set()

    def _take(self, line: bytes) -> None:
        text = line[:LONGEST_LINE_BYTES].decode("utf-8", "replace").strip()
        # The end of a line whose beginning has been told tells nothing by itself.
        if text and not self._is_cut:
            logging.getLogger(NAME).handle(_record(text, self.worker))
        self._is_cut = False


def _record(text: str, worker: int | None) -> logging.LogRecord:
    told = _told(text)
    known = {name: told.pop(name, "") for name in ("time", "level", "logger", "message", "exception")}
    level = str(known["level"]).upper()
    record = logging.makeLogRecord(
        {
            "name": str(known["logger"]) or NAME,
            "levelname": level,
            "levelno": logging.getLevelNamesMapping().get(level, logging.WARNING),
            "msg": str(known["message"]),
            "exc_text": str(known["exception"]) or None,
            "facts": {"worker": worker, **told},
        }
    )
    with suppress(ValueError):
        record.created = datetime.fromisoformat(str(known["time"])).timestamp()
        record.msecs = record.created % 1 * 1000
    return record


def _told(text: str) -> dict[str, Any]:
    """A line of a worker's log; a line of anything else as the message of one."""
    with suppress(ValueError, RecursionError):
        told = json.loads(text)
        if isinstance(told, dict) and {"level", "message"} <= told.keys():
            return told
    return {"level": "warning", "message": text}
