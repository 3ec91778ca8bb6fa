"""Where a server of ours is found, how one is let in, and why it was not reached."""

from collections.abc import Mapping

import httpx


def address(host: str, port: int) -> str:
    """Where a server that listens on `host` is found from this machine: every interface includes the loopback."""
    near = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - to recognise it
    return f"http://{f'[{near}]' if ':' in near else near}:{port}"


def authorization(key: str) -> dict[str, str]:
    """The header that shows a key; none for no key."""
    return {"authorization": f"Bearer {key}"} if key else {}


def reason(error: httpx.RequestError) -> str:
    """Why a request came to nothing, in words; some of httpx' errors have none."""
    return str(error) or _WORDS.get(type(error), type(error).__name__)


_WORDS: Mapping[type[httpx.RequestError], str] = {
    httpx.ConnectTimeout: "it cannot be reached in time",
    httpx.ConnectError: "connection refused",
}
