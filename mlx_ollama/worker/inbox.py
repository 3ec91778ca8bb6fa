"""The worker's side of the socket: a thread that reads, and writing from wherever frames are made."""

import logging
import os
import queue
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress

from mlx_ollama.framing import Decoder, ProtocolError, encode
from mlx_ollama.protocol import Frame, Ping, Pong

logger = logging.getLogger(__name__)

READ_BYTES = 1 << 18


class SocketInbox:
    """Reads frames on a thread of its own, which never waits for the model, and so can say that the process lives.

    When the gateway's end closes, the process ends there and then, whatever the MLX thread is doing: nobody is left to
    answer.
    """

    def __init__(self, sock: socket.socket, outbox: "SocketOutbox") -> None:
        self._sock = sock
        self._outbox = outbox
        self._frames: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._steps = 0
        self._step = 0
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def take(self, *, wait: bool) -> Iterable[Frame]:
        """What has arrived; waits for something if asked to. Between two calls the model is at a step."""
        self._step = 0
        frames = [self._frames.get()] if wait else []
        with suppress(queue.Empty):
            while True:
                frames.append(self._frames.get_nowait())
        self._steps += 1
        self._step = self._steps
        return frames

    def _read(self) -> None:
        decoder = Decoder()
        try:
            while data := self._sock.recv(READ_BYTES):
                for frame in decoder.feed(data):
                    if isinstance(frame, Ping):
                        self._outbox.send([Pong(self._step)])
                    else:
                        self._frames.put(frame)
        except (OSError, ProtocolError):
            logger.exception("the gateway's frames cannot be read")
        finally:
            os._exit(0)


class SocketOutbox:
    """Writes frames; one call, one write, from whichever thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()

    def send(self, frames: list[Frame]) -> None:
        """Write frames in order; ends the process when nobody reads them any more."""
        data = b"".join(encode(frame) for frame in frames)
        try:
            with self._lock:
                self._sock.sendall(data)
        except OSError:
            os._exit(0)
