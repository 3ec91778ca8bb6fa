"""Who may speak to the server from a browser: CORS, then the Host check (wire-spec 1.3 to 1.5)."""

import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_ollama.policies.body import answered

try:
    import psutil
except ImportError:  # without it only the machine's own other addresses are unknown
    psutil = None

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104 - names to allow, not to bind
DEFAULT_ORIGINS = (
    *(f"{scheme}://{host}{port}" for host in _LOCAL_HOSTS for scheme in ("http", "https") for port in ("", ":*")),
    *("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*"),
)
ALLOWED_METHODS = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
ALLOWED_HEADERS = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,X-Stainless-Async,"
    "X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,"
    "X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,"
    "X-Stainless-Runtime-Version,X-Stainless-Timeout"
)
PREFLIGHT_SECONDS = "43200"
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")


class Origin:
    """Refuses foreign web pages and foreign host names, answers preflights.

    `origins` come in front of the built-in list; `bind_host` is where the server listens: the Host check is only for
    servers that listen on loopback. `allow_of` gives the `Allow` header of a path, None for a path that is not there.
    `headers` are what web pages may send besides the reference's list.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        origins: Sequence[str],
        bind_host: str,
        allow_of: Callable[[str], str | None],
        headers: Sequence[str] = (),
    ) -> None:
        self.app = app
        self._origins = (*origins, *DEFAULT_ORIGINS)
        self._checks_host = is_loopback(bind_host)
        self._allow_of = allow_of
        self._headers = ",".join((ALLOWED_HEADERS, *headers))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin, host = headers.get("origin"), headers.get("host", "")
        if origin and origin not in (f"http://{host}", f"https://{host}"):
            if not self._allows(origin):
                await self._refuse(scope, receive, send)
                return
            send = self._with_cors(origin, send)
            if scope["method"] == "OPTIONS":
                await self._empty(scope, send, 204, preflight=True)
                return
        name = host_name(host)
        if self._checks_host and not is_local(name):
            await self._refuse(scope, receive, send)
        elif scope["method"] == "OPTIONS" and self._checks_host and not is_address(name):
            await self._empty(scope, send, 204)
        else:
            await self.app(scope, receive, send)

    def _allows(self, origin: str) -> bool:
        return any(matches(pattern, origin) for pattern in self._origins)

    def _with_cors(self, origin: str, send: Send) -> Send:
        anyone = "*" in self._origins

        async def send_with_cors(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["access-control-allow-origin"] = "*" if anyone else origin
                if not anyone:
                    headers.append("vary", "Origin")
            await send(message)

        return send_with_cors

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answered(lambda: self._empty(scope, send, 403), receive)

    async def _empty(self, scope: Scope, send: Send, status: int, *, preflight: bool = False) -> None:
        headers = [] if status == 204 else [(b"content-length", b"0")]  # noqa: PLR2004 - no content has no length
        allow = self._allow_of(scope["path"]) if scope["method"] == "OPTIONS" else None
        if allow:
            headers.append((b"allow", allow.encode()))
        if preflight:
            headers += _preflight_headers(self._headers, vary="*" not in self._origins)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def matches(pattern: str, origin: str) -> bool:
    """One `*` stands for anything; otherwise only the text itself. Prefix and suffix are all that is looked at."""
    if "*" not in pattern:
        return pattern == origin
    prefix, _, suffix = pattern.partition("*")
    return origin.startswith(prefix) and origin.endswith(suffix) and len(origin) >= len(prefix) + len(suffix)


def host_name(host: str) -> str:
    """A Host header without its port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(bind_host: str) -> bool:
    return bind_host.lower() == "localhost" or (is_address(bind_host) and ipaddress.ip_address(bind_host).is_loopback)


def is_local(name: str) -> bool:
    """Whether a host is this machine or its own network (wire-spec 1.5)."""
    if is_address(name):
        address = ipaddress.ip_address(name)
        return address.is_loopback or address.is_private or address.is_unspecified or name in set(_own_addresses())
    lowered = name.lower()
    return lowered in ("", "localhost", socket.gethostname().lower()) or lowered.endswith(_LOCAL_SUFFIXES)


def _own_addresses() -> Iterable[str]:
    if psutil is None:
        return
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            yield address.address.partition("%")[0]


def _preflight_headers(allowed: str, *, vary: bool) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"access-control-allow-methods", ALLOWED_METHODS.encode()),
        (b"access-control-allow-headers", allowed.encode()),
        (b"access-control-max-age", PREFLIGHT_SECONDS.encode()),
    ]
    if vary:
        headers += [(b"vary", b"Access-Control-Request-Method"), (b"vary", b"Access-Control-Request-Headers")]
    return headers
