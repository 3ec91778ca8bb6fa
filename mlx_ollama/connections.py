"""The connections of a server by the address of their other end, so that one can be cut."""

import socket
import struct
from contextlib import suppress
from weakref import WeakValueDictionary

_AT_ONCE = struct.pack("ii", 1, 0)
"""For SO_LINGER: what has not been sent is dropped."""


class Connections:
    """What a `Listener` has accepted and somebody still holds."""

    def __init__(self) -> None:
        self._sockets: WeakValueDictionary[tuple[str, int], socket.socket] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._sockets)

    def add(self, connection: socket.socket, address: tuple[str, int]) -> None:
        self._sockets[address] = connection

    def hang_up(self, address: tuple[str, int]) -> None:
        """End a connection at once, whatever is still to be sent on it; quiet if it has ended by itself."""
        connection = self._sockets.get(address)
        if connection is not None:
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
                # Whoever reads or writes on it now learns that it has ended, and closes it.
                connection.shutdown(socket.SHUT_RDWR)

    def hang_up_on_all(self) -> None:
        """End every connection that is left, as `hang_up` does."""
        for address in list(self._sockets):
            self.hang_up(address)


class Listener(socket.socket):
    """A listening socket that enters what it accepts into `connections`.

    Servers hide their sockets from applications, and closing one from the inside waits until all has been sent, which
    with a client that does not read is for ever.
    """

    connections: Connections | None = None

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, address = super().accept()
        if self.connections is not None:
            # With IPv6 there are two more numbers, which nobody speaks of.
            self.connections.add(connection, address[:2])
        return connection, address
