"""Runs the gateway on Hypercorn, from an open port to the last worker's end."""

import asyncio
import errno
import gc
import http.client
import logging
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from hypercorn.asyncio import run as hypercorn_run
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config, Sockets
from hypercorn.events import Closed

from mlx_ollama.app import Gateway, create_gateway
from mlx_ollama.connections import Listener
from mlx_ollama.errors import ShuttingDown
from mlx_ollama.lifeline import Lifeline
from mlx_ollama.policies.origin import is_loopback
from mlx_ollama.settings import Settings

if TYPE_CHECKING:
    from hypercorn.typing import ASGIFramework

try:
    import psutil
except ImportError:  # without it we cannot name the process that holds a port
    psutil = None

logger = logging.getLogger(__name__)

BACKLOG = 1024
HEADER_BYTES = 1 << 20
"""Go's limit; browsers send the cookies of every port of localhost along."""

OPEN_FILES = 10_240
"""macOS starts programs with 256, and every connection is one."""

LAST_WORDS_SECONDS = 5.0
"""How long answers that were cut off at the drain budget may take to say so."""


class PortTaken(Exception):
    """Somebody else listens there; the message says who."""


def run(settings: Settings, announce: Callable[[str], None], lifeline: Lifeline | None = None) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP, then drain (see `_drain`). `announce` is told the address once it is open.

    The end of the supervisor on the other side of `lifeline` is such a signal, too.

    Raises:
        SettingsError: for a policy of the user's that cannot be made.
        PortTaken: if the address is in use.
        OSError: if it cannot be opened for another reason.
    """
    _allow_many_files()
    gateway = create_gateway(settings)
    if not settings.keys and not is_loopback(settings.host):
        logger.warning(
            "listening on %s without keys: whoever reaches this address can use the server; MLX_API_KEYS sets keys",
            settings.host,
        )
    listener = _listen(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    announce(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    # What has been made by now lives as long as the server: no garbage collection needs to look at it again.
    gc.collect()
    gc.freeze()
    asyncio.run(_serve(gateway, settings, listener, lifeline))


async def _serve(gateway: Gateway, settings: Settings, listener: Listener, lifeline: Lifeline | None) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Under nohup a terminal that closes asks for nothing.
        if signal.getsignal(name) is not signal.SIG_IGN:
            loop.add_signal_handler(name, asked.set)
    if lifeline is not None:
        lifeline.on_end(loop, asked.set)
    # Starlette and Hypercorn describe the same ASGI with types of their own.
    app = cast("ASGIFramework", gateway.app)
    listener.connections = gateway.limits.connections
    server = asyncio.create_task(hypercorn_serve(app, _config(settings, listener), shutdown_trigger=asked.wait))
    stop = asyncio.create_task(asked.wait())
    await asyncio.wait((server, stop), return_when=asyncio.FIRST_COMPLETED)
    if not server.done():
        await _drain(gateway, settings.drain)
        await asyncio.wait((server,), timeout=LAST_WORDS_SECONDS)
    stop.cancel()
    if not server.done():
        # A request of which the rest does not come, a reader that does not read: they have had their time.
        gateway.limits.connections.hang_up_on_all()
        await asyncio.wait((server,), timeout=LAST_WORDS_SECONDS)
    if server.done():
        server.result()
        return
    # A connection that does not close even so must not keep us; its task is cancelled, the workers end all the same.
    server.cancel()
    await asyncio.wait((server,), timeout=LAST_WORDS_SECONDS)
    if server.done() and not server.cancelled() and (error := server.exception()):
        logger.warning("connections that would not close were cut: %s", type(error).__name__)
    await gateway.pool.close()


async def _drain(gateway: Gateway, budget: float) -> None:
    """Refuse new work, let running answers finish within `budget` seconds, then end the rest with an error line."""
    gateway.in_flight.closed = True
    logger.info("stopping: %d answers are under way, they have %g s", gateway.in_flight.count, budget)
    with suppress(TimeoutError):
        await asyncio.wait_for(gateway.in_flight.idle(), budget)
        return
    gateway.pool.fail_all(ShuttingDown())
    if gateway.upstream is not None:
        # Its answers break off with that, and say so.
        await gateway.upstream.close()
    with suppress(TimeoutError):
        await asyncio.wait_for(gateway.in_flight.idle(), LAST_WORDS_SECONDS)


def _allow_many_files() -> None:
    """Raise the soft limit of open files as far as we need and may, as Go's runtime does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Opened(Config):
    """Hypercorn's configuration for a socket that is already open.

    We want to know about a taken port before anything else starts.
    """

    def __init__(self, listener: socket.socket) -> None:
        super().__init__()
        self._listener = listener

    def create_sockets(self) -> Sockets:
        return Sockets(secure_sockets=[], insecure_sockets=[self._listener], quic_sockets=[])


class _Connection(TCPServer):
    """A connection that is over when its client has ended it.

    Hypercorn's own then waits for the idle clock, with its socket open and all of its state in memory: whoever comes
    and goes often enough would use up every file descriptor within `connection_keep_alive`.
    """

    _is_over = False

    async def _read_data(self) -> None:
        try:
            await super()._read_data()
        except KeyError:
            # Over HTTP/2, of data for a stream that is over by now: nothing that the log should be filled with.
            await self.protocol.handle(Closed())
        self._is_over = True
        await self.idle_task.stop()

    async def _idle_timeout(self) -> None:
        # An answer that was under way when its client left makes the connection idle once more.
        if not self._is_over:
            await super()._idle_timeout()


# There is no other way to say which class serves a connection; the version of Hypercorn is bounded in pyproject.toml.
hypercorn_run.TCPServer = _Connection  # type: ignore[attr-defined]


def _config(settings: Settings, listener: Listener) -> Config:
    config = _Opened(listener)
    config.keep_alive_timeout = settings.connection_keep_alive
    # Streams end at the drain budget by our own hand; Hypercorn's limit is only the fence behind it.
    config.graceful_timeout = settings.drain + 2 * LAST_WORDS_SECONDS
    config.shutdown_timeout = settings.drain + 2 * LAST_WORDS_SECONDS
    config.include_server_header = False
    config.h11_max_incomplete_size = HEADER_BYTES
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    return config


def _listen(host: str, port: int) -> Listener:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = Listener(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(_who_answers(host, port)) from error
        raise
    listener.setblocking(False)
    return listener


def _who_answers(host: str, port: int) -> str:
    reply = _first_line(host, port, "/")
    version = _first_line(host, port, "/api/version")
    owner = _owner(port)
    told = f"it answers {reply!r}" if reply else "nothing there speaks HTTP"
    if "version" in version:
        told += f" and {version}"
    return (
        f"port {port} on {host} is taken{f' by {owner}' if owner else ''}: {told}. "
        "Stop that one, or choose another port with --port or MLX_API_PORT."
    )


def _first_line(host: str, port: int, path: str) -> str:
    connection = http.client.HTTPConnection(host, port, timeout=1)
    try:
        connection.request("GET", path)
        lines = connection.getresponse().read(200).decode("utf-8", "replace").splitlines()
        return lines[0] if lines else ""
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def _owner(port: int) -> str:
    """The process that listens on a port, as far as the system lets us see."""
    if psutil is None:
        return ""
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == "LISTEN" and connection.laddr.port == port and connection.pid:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return ""
