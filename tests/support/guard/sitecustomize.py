"""On PYTHONPATH, this refuses every connection of a Python process beyond this machine, and notes who tried what."""

import os
import socket
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NoReturn

_RECORD = Path(os.environ["LOCAL_ONLY_RECORD"])
_connect, _connect_ex, _sendto = socket.socket.connect, socket.socket.connect_ex, socket.socket.sendto
_getaddrinfo = socket.getaddrinfo


def _is_local(host: Any) -> bool:
    if isinstance(host, bytes):
        host = host.decode("idna")
    if host in (None, "", "localhost"):
        return True
    try:
        address = ip_address(str(host).partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _refuse(what: str) -> NoReturn:
    with _RECORD.open("a") as record:
        record.write(f"{what} by {sys.orig_argv}\n")
    raise ConnectionRefusedError(f"{what}: not in this test")


def _check(sock: socket.socket, address: Any) -> None:
    if sock.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
        _refuse(f"connection to {address}")


class _Guarded(socket.socket):
    def connect(self, address: Any) -> None:
        _check(self, address)
        _connect(self, address)

    def connect_ex(self, address: Any) -> int:
        _check(self, address)
        return _connect_ex(self, address)

    def sendto(self, *arguments: Any) -> int:
        _check(self, arguments[-1])
        return _sendto(self, *arguments)


def _resolve(host: Any, *arguments: Any, **options: Any) -> Any:
    if not _is_local(host) and any(letter.isalpha() for letter in str(host).replace(":", "")):
        _refuse(f"look-up of {host!r}")
    return _getaddrinfo(host, *arguments, **options)


setattr(socket, "socket", _Guarded)  # noqa: B010 - for everyone who imports it later
setattr(socket, "getaddrinfo", _resolve)  # noqa: B010
