"""Whose address a request comes from, where proxies that are trusted may speak for others."""

import ipaddress
from collections.abc import Iterable, Sequence
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


IPV6_PREFIX_BITS = 64
"""The least that one line is given of IPv6: each of its devices has as many addresses as it likes in there."""


class Peers:
    """`trusted` are addresses and networks (`10.0.0.0/8`) of proxies.

    Raises:
        ValueError: for what is neither.
    """

    def __init__(self, trusted: Iterable[str]) -> None:
        self._trusted: Sequence[Network] = [ipaddress.ip_network(text, strict=False) for text in trusted]

    def client(self, peer: str, forwarded: Sequence[str]) -> str:
        """The address of a client: `peer` is who is connected, `forwarded` the values of `X-Forwarded-For`.

        Each proxy adds on the right whom it spoke to. So the list is read from there, and only as far as those who
        wrote it are trusted; the rest may be invented.
        """
        client = _address(peer)
        if client is None:
            return peer
        hops = [hop for value in forwarded for hop in value.split(",")]
        while hops and self._trusts(client):
            hop = _address(hops.pop())
            if hop is None:
                break
            client = hop
        return str(client)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def whose(client: str) -> str:
    """Whom an address stands for: of IPv6 it is a network, since nobody has one address alone (RFC 6177)."""
    address = _address(client)
    if not isinstance(address, ipaddress.IPv6Address):
        return client
    return str(ipaddress.ip_network((int(address), IPV6_PREFIX_BITS), strict=False))


def _address(text: str) -> Address | None:
    """An address, also with a port, as some proxies write it; None for anything else."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address
