"""A client that asks for HTTP/2 by `Upgrade: h2c` in its first request, as Java's does."""

import socket
from collections.abc import Iterator, Mapping
from typing import Any

import h2.connection
import h2.events
from h2.settings import SettingCodes

from tests.support.server import Server


class H2cClient:
    """One connection; its first stream is `GET /api/version`. Windows are opened only as `read` takes what came."""

    def __init__(self, server: Server, *, window: int = 65_535) -> None:
        self._connection = h2.connection.H2Connection()
        self._connection.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = window
        self._connection.local_settings.acknowledge()
        self._socket = socket.create_connection((server.host, server.port), timeout=30)
        settings = self._connection.initiate_upgrade_connection()
        assert settings
        head = "GET /api/version HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
        self._socket.sendall(head.encode() + b"http2-settings: " + settings + b"\r\n\r\n")
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._socket.recv(1)
        assert received.startswith(b"HTTP/1.1 101"), received
        self._flush()
        self._received: dict[int, list[h2.events.Event]] = {}

    def ask(self, path: str, body: bytes, *, is_whole: bool = True) -> int:
        """Send a POST; the number of its stream. If its body is not whole there is more to `send`."""
        stream = self._connection.get_next_available_stream_id()
        headers = [(":method", "POST"), (":path", path), (":authority", "localhost"), (":scheme", "http")]
        self._connection.send_headers(stream, headers)
        self._connection.send_data(stream, body, end_stream=is_whole)
        self._flush()
        return stream

    def send(self, stream: int, body: bytes) -> None:
        """The rest of a body."""
        self._connection.send_data(stream, body, end_stream=True)
        self._flush()

    def headers(self, stream: int) -> Mapping[str, str]:
        """The head of an answer, with `:status`."""
        event = self._next(stream)
        assert isinstance(event, h2.events.ResponseReceived), event
        return {_text(name): _text(value) for name, value in event.headers}

    def read(self, stream: int) -> Iterator[bytes]:
        """The pieces of an answer, as they come."""
        while not isinstance(event := self._next(stream), h2.events.StreamEnded):
            if isinstance(event, h2.events.DataReceived):
                self._connection.acknowledge_received_data(event.flow_controlled_length, stream)
                self._flush()
                yield event.data

    def reset(self, stream: int) -> None:
        """Hang up on one stream."""
        self._connection.reset_stream(stream)
        self._flush()

    def is_cut(self) -> bool:
        """Whether the server has ended the connection; waits until it has, or 30 seconds."""
        try:
            while self._socket.recv(1 << 16):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        self._socket.close()

    def _next(self, stream: int) -> h2.events.Event:
        waiting = self._received.setdefault(stream, [])
        while not waiting:
            data = self._socket.recv(1 << 16)
            assert data, "the server has closed the connection"
            for event in self._connection.receive_data(data):
                number = getattr(event, "stream_id", None)
                if number:
                    self._received.setdefault(number, []).append(event)
            self._flush()
        return waiting.pop(0)

    def _flush(self) -> None:
        if data := self._connection.data_to_send():
            self._socket.sendall(data)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
