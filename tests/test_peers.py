"""Whose address counts, and when a proxy is believed."""

import pytest

from mlx_ollama.peers import Peers
from mlx_ollama.settings import SettingsError, load

TRUSTED = ("127.0.0.1", "10.0.0.0/8", "fd00::/8")


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "client"),
    [
        ((), "192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        (TRUSTED, "192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        (TRUSTED, "127.0.0.1", [], "127.0.0.1"),
        (TRUSTED, "127.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        (TRUSTED, "127.0.0.1", ["1.1.1.1, 198.51.100.7"], "198.51.100.7"),
        (TRUSTED, "127.0.0.1", ["1.1.1.1", "198.51.100.7, 10.1.2.3"], "198.51.100.7"),
        (TRUSTED, "127.0.0.1", ["10.9.9.9,10.1.2.3"], "10.9.9.9"),
        (TRUSTED, "127.0.0.1", ["198.51.100.7, nonsense, 10.1.2.3"], "10.1.2.3"),
        (TRUSTED, "127.0.0.1", [""], "127.0.0.1"),
        (TRUSTED, "::ffff:127.0.0.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
        (TRUSTED, "fd00::1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        (TRUSTED, "10.0.0.1", ["198.51.100.7:4711"], "198.51.100.7"),
        (TRUSTED, "", ["198.51.100.7"], ""),
    ],
)
def test_forwarded_addresses_are_read_as_far_as_they_are_trusted(
    trusted: tuple[str, ...], peer: str, forwarded: list[str], client: str
) -> None:
    assert Peers(trusted).client(peer, forwarded) == client


def test_what_is_no_address_cannot_be_trusted() -> None:
    with pytest.raises(SettingsError, match=r"MLX_API_TRUSTED_PROXIES: trusted_proxies '10\.0\.0\.1,proxy'"):
        load({}, {"MLX_API_TRUSTED_PROXIES": "10.0.0.1,proxy"})
