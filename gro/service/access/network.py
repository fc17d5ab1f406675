"""The client's network, by which anonymous and shared use is limited, as far as declared proxies vouch for it.

A client can write any header, so the walk starts at the connection's own address and follows what a hop says only
while that hop is a declared proxy: from the right, since each proxy appends. Only the header that the proxies write is
read; a client's other one would pass through them unchanged. Where a proxy says nothing that can be read, the client is
taken to be the proxy itself.

The address must be the connection's own: run uvicorn with ``proxy_headers=False``, or it believes the header first.

ASVS 5.0: 4.1.3 and 15.3.4 (a client cannot set what limits and logs know it by).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator

from gro.config import Settings
from gro.service.access.forwarded import Address, address, forwarded, x_forwarded_for

PREFIXES = {4: 32, 6: 64}
"""Bits of an address that tell clients apart: in IPv6 a single subscriber has at least a /64 (RFC 6177)."""
UNKNOWN = "unknown"
"""The network of connections without an address, such as a Unix socket's: they share one limit."""
RECENT = 4_096
"""Clients whose network is remembered."""
Hops = Callable[[Sequence[str]], list[str]]
READERS: Mapping[str, Hops] = {"X-Forwarded-For": x_forwarded_for, "Forwarded": forwarded}


def _not_all(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    if not network.prefixlen:
        raise ValueError("every client would be a proxy and could claim any address; name the proxies' own networks")
    return network


Proxy = Annotated[IPv4Network | IPv6Network, AfterValidator(_not_all)]


class NetworkSettings(Settings):
    """What stands between clients and the service."""

    proxies: tuple[Proxy, ...] = ()
    """Networks of the proxies, such as "10.1.0.0/24", and nothing else: whoever is in one can claim any address."""
    header: Literal["X-Forwarded-For", "Forwarded"] = "X-Forwarded-For"
    """The header that the proxies append to; the other is ignored."""


def client_address(
    peer: str | None, headers: Iterable[tuple[bytes, bytes]], settings: NetworkSettings
) -> Address | None:
    """Find who called.

    Args:
        peer: host of ASGI's ``scope["client"]``.
        headers: of ASGI's ``scope``.
        settings: the proxies.

    Returns:
        The address nearest to the client that is vouched for; None where the connection has none.

    Raises:
        Refused: 400; a proxy sent a malformed Forwarded header.
    """
    at = address(peer or "")
    if at is None or not _vouches(at, settings):
        return at
    name = settings.header.lower().encode()
    values = [value.decode("latin-1") for key, value in headers if key.lower() == name]
    for hop in reversed(READERS[settings.header](values)):
        said = address(hop)
        if said is None:
            break
        at = said
        if not _vouches(at, settings):
            break
    return at


def on_this_machine(host: str) -> bool:
    """Whether a host, by name or address, is reached without leaving the machine: a key may go there in the clear."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@lru_cache(RECENT)
def limit_key(client: Address | None) -> str:
    """The network that a client's limit is kept by: ``192.0.2.1/32``, ``2001:db8::/64``, or ``unknown``."""
    return UNKNOWN if client is None else str(ip_network((client, PREFIXES[client.version]), strict=False))


def _vouches(hop: Address, settings: NetworkSettings) -> bool:
    return any(hop in network for network in settings.proxies)
