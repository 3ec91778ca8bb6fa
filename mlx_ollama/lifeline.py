"""The gateway's end of the socket that ties it to its supervisor."""

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

FLAG = "--lifeline"
"""Of `serve`, for its supervisor alone: the number of an open socket."""


class Lifeline:
    """Tells the supervisor the address, and notices its end.

    A gateway without its supervisor would hold the port against the next one, so it ends, too. A socket says so on
    every system, whatever way the supervisor died.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)

    def announce(self, address: str) -> None:
        """Tell the address; quiet if the supervisor has gone, which `on_end` is going to say."""
        with suppress(OSError):
            self._socket.sendall(address.encode() + b"\n")

    def on_end(self, loop: "AbstractEventLoop", act: Callable[[], object]) -> None:
        """Call `act` once when the supervisor has gone."""

        def ended() -> None:
            try:
                if self._socket.recv(1):
                    return
            except BlockingIOError:
                return
            except OSError:  # torn rather than closed: gone all the same
                pass
            loop.remove_reader(self._socket)
            act()

        loop.add_reader(self._socket, ended)
