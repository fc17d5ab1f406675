"""What logs and traces say of people: no more than is set, by pseudonyms that only the holder of a key can make."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Final, Literal

from gro.config import Settings
from gro.errors import ConfigError
from gro.service.keyfile import derived

KEPT: Final = {4: 24, 6: 48}
"""Bits of a truncated address, by IP version: of IPv6, what a provider gives to one customer."""
REMEMBERED: Final = 1 << 16
"""Hashes of items that are remembered."""


class PrivacySettings(Settings):
    """What is written of accounts, addresses and items.

    Pseudonyms are personal data still (GDPR, article 4(5)): who holds the key can tell whose they are.
    """

    accounts: Literal["given", "pseudonym"] = "given"
    """Names of accounts and credentials: as they are, or as keyed hashes of them."""
    addresses: Literal["full", "truncated", "absent"] = "truncated"
    """Addresses of clients; truncated keeps the network, 24 bits of IPv4 and 48 of IPv6."""
    items: Literal["given", "hashed"] = "hashed"
    """Item ids of the query log. Hashed items still repeat as the items do: who knows how popular each item is can
    guess the most popular ones."""
    key_file: Path | None = None
    """File with the secret of pseudonyms and hashes, 32 bytes or more; the same file gives the same pseudonyms."""


class Privacy:
    """Applies :class:`PrivacySettings`."""

    def __init__(self, settings: PrivacySettings, key: bytes | None = None) -> None:
        """Apply ``settings`` with the ``key`` that their file holds.

        Raises:
            ConfigError: pseudonyms are wanted and there is no key.
        """
        self._settings, self._key = settings, key
        self._names = self._derived("accounts") if settings.accounts == "pseudonym" else None

    @property
    def pseudonyms(self) -> bool:
        """Whether accounts are written as pseudonyms."""
        return self._names is not None

    def account(self, name: str) -> str:
        """Return the name of an account or a credential as it is written: a pseudonym is 32 hexadecimal digits."""
        if self._names is None:
            return name
        return hmac.digest(self._names, name.encode("utf-8", "surrogatepass"), "sha256")[:16].hex()

    def address(self, address: str | None) -> str | None:
        """Return an address as it is written, a truncated one as its network, such as 203.0.113.0/24.

        ``None`` where addresses are absent, or it is no IP address.
        """
        known = _parsed(address)
        if known is None or self._settings.addresses == "absent":
            return None
        if self._settings.addresses == "truncated":
            return str(ip_network(f"{known}/{KEPT[known.version]}", strict=False))
        return str(known)

    def items(self) -> Callable[[Iterable[int]], list[int]]:
        """Return what item ids are written by: themselves, or keyed hashes in [1, 2^53), which any JSON reader takes.

        Raises:
            ConfigError: items are hashed and there is no key.
        """
        if self._settings.items == "given":
            return lambda ids: [int(item) for item in ids]
        key = self._derived("items")

        @lru_cache(REMEMBERED)
        def hashed(item: int) -> int:
            digest = hmac.digest(key, str(item).encode(), "sha256")
            return int.from_bytes(digest[:8], "big") % (2**53 - 1) + 1

        return lambda ids: [hashed(int(item)) for item in ids]

    def _derived(self, use: str) -> bytes:
        if self._key is None:
            kept = "accounts are pseudonyms" if use == "accounts" else "items of the query log are hashed"
            raise ConfigError(f"privacy: {kept}, which takes a secret; set key_file, or {use} = 'given'")
        return derived(self._key, f"gro privacy: {use}")


def _parsed(address: str | None) -> IPv4Address | IPv6Address | None:
    try:
        known = ip_address((address or "").partition("%")[0])
    except ValueError:
        return None
    return (known.ipv4_mapped or known) if isinstance(known, IPv6Address) else known
