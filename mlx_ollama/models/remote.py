"""Addresses of servers on which models may live (wire-spec 6.4, `remote_host`)."""

import re
from urllib.parse import urlsplit

from mlx_ollama.errors import InvalidRequest

CLOUD_HOST = "https://ollama.com:443"
_PORTS = {"http": 11434, "https": 443}
_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")


def remote_address(text: str) -> str:
    """`host` to `http://host:11434`, `ollama.com` to its HTTPS, a bare path to this machine.

    Raises:
        InvalidRequest: `bad remote`.
    """
    if text == "ollama.com":
        return CLOUD_HOST
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        port = parts.port or _PORTS.get(scheme, _PORTS["http"])
    except ValueError as error:
        raise InvalidRequest("bad remote") from error
    if _ESCAPE.search(rest) or scheme not in _PORTS:
        raise InvalidRequest("bad remote")
    return f"{scheme}://{parts.hostname or 'localhost'}:{port}{parts.path}"
