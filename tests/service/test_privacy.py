"""Privacy: what is written of accounts, addresses and items."""

from __future__ import annotations

import hmac
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gro.errors import ConfigError
from gro.service.keyfile import derived
from gro.service.privacy import Privacy, PrivacySettings

KEY, OTHER = b"k" * 32, b"o" * 32
NAMES = st.text(st.characters(codec=None), min_size=1)


def privacy(key: bytes | None = KEY, **settings: str) -> Privacy:
    return Privacy(PrivacySettings.make(settings), key)


@given(NAMES, NAMES)
def test_pseudonyms_tell_accounts_apart_and_nothing_else(one: str, other: str) -> None:
    keyed = privacy(accounts="pseudonym")
    assert (keyed.account(one) == keyed.account(other)) == (one == other)
    assert keyed.account(one) == privacy(accounts="pseudonym").account(one)
    assert keyed.account(one) != privacy(OTHER, accounts="pseudonym").account(one)
    assert len(keyed.account(one)) == len(bytes.fromhex(keyed.account(one))) * 2 == 32
    assert privacy().account(one) == one


def test_pseudonyms_are_what_is_documented() -> None:
    made = hmac.digest(derived(KEY, "gro privacy: accounts"), b"alice", "sha256").hex()
    assert privacy(accounts="pseudonym").account("alice") == made[:32]


@given(st.ip_addresses())
def test_addresses_are_full_truncated_or_absent(address: IPv4Address | IPv6Address) -> None:
    plain = address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
    assert privacy(addresses="absent").address(str(address)) is None
    assert privacy(addresses="full").address(str(address)) == str(plain)
    kept = privacy(addresses="truncated").address(str(address))
    assert kept is not None
    network = ip_network(kept)
    assert network.prefixlen == (24 if plain.version == 4 else 48)
    assert ip_address(str(plain)) in network


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("203.0.113.7", "203.0.113.0/24"),
        ("::ffff:203.0.113.7", "203.0.113.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/48"),
        ("unix:/run/socket", None),
        ("203.0.113.7\n", None),
        ("", None),
        (None, None),
    ],
)
def test_truncation_is_the_default(address: str | None, kept: str | None) -> None:
    assert Privacy(PrivacySettings()).address(address) == kept


@given(st.lists(st.integers(1, 2**63 - 1), unique=True))
def test_hashed_items_repeat_as_items_do_and_fit_json(ids: list[int]) -> None:
    write = privacy().items()
    hashed = write(ids + ids)
    assert hashed[: len(ids)] == hashed[len(ids) :]
    assert len(set(hashed)) == len(ids)
    assert all(1 <= item < 2**53 for item in hashed)
    assert not ids or hashed != privacy(OTHER).items()(ids + ids)
    assert privacy(None, items="given").items()(ids) == ids


def test_what_takes_a_secret_says_so() -> None:
    with pytest.raises(ConfigError, match=r"accounts are pseudonyms.*set key_file, or accounts = 'given'"):
        privacy(None, accounts="pseudonym")
    with pytest.raises(ConfigError, match=r"items of the query log are hashed.*set key_file, or items = 'given'"):
        privacy(None).items()
