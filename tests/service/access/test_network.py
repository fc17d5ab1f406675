"""Whom a request is counted against: what proxies vouch for, and nothing that a client makes up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gro.errors import ConfigError
from gro.service.access.forwarded import address, forwarded
from gro.service.access.network import NetworkSettings, client_address, limit_key
from gro.service.core import Refused

Refusing = Callable[..., AbstractContextManager[None]]
PROXIES = ["10.0.0.0/24", "10.9.9.9", "2001:db8:ffff::/48"]
PROXY, CLIENT = "10.0.0.1", "192.0.2.7"


def settings(**changed: Any) -> NetworkSettings:
    return NetworkSettings.make({"proxies": PROXIES, **changed})


def called(peer: str | None, *values: str, name: bytes = b"x-forwarded-for", **changed: Any) -> str:
    headers = [(b"host", b"x"), *((name, value.encode("latin-1")) for value in values)]
    return str(client_address(peer, headers, settings(**changed)))


def called_rfc7239(peer: str, *values: str) -> str:
    return called(peer, *values, name=b"forwarded", header="Forwarded")


@pytest.mark.parametrize(
    ("node", "read"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:443", "192.0.2.7"),
        ("192.0.2.7:_port", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0]:80", "fe80::1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::ffff:c000:207", "192.0.2.7"),
        ("[::ffff:192.0.2.7]:443", "192.0.2.7"),
        ("[::ffff:192.0.2.7%1]", "192.0.2.7"),
        ("", "None"),
        ("unknown", "None"),
        ("_hidden", "None"),
        ("testclient", "None"),
        ("localhost", "None"),
        ("192.0.2", "None"),
        ("192.0.2.256", "None"),
        ("192.0.2.07", "None"),
        ("0xC0.0.2.7", "None"),
        ("3221225991", "None"),
        ("192.0.2.7/32", "None"),
        ("192.0.2.7:", "None"),
        ("192.0.2.7:123456", "None"),
        ("192.0.2.7:-1", "None"),
        ("192.0.2.7%eth0", "None"),
        (" 192.0.2.7", "None"),
        ("192.0.2.7\n", "None"),
        ("\u0661\u0669\u0662.0.2.7", "None"),
        ("[192.0.2.7", "None"),
        ("[2001:db8::1]x", "None"),
        ("2001:db8::1::2", "None"),
        ("2001:db8::g", "None"),
    ],
)
def test_an_address_is_read_in_every_form_and_nothing_else_is(node: str, read: str) -> None:
    assert str(address(node)) == read


@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_address_is_read_back(client: IPv4Address | IPv6Address, port: int) -> None:
    expected = getattr(client, "ipv4_mapped", None) or client
    assert address(str(client)) == expected
    assert address(f"[{client}]:{port}" if client.version == 6 else f"{client}:{port}") == expected


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_none(text: str) -> None:
    read = address(text)
    assert read is None or read == ip_address(str(read))


@pytest.mark.parametrize(
    ("client", "key"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_network_that_a_limit_is_kept_by(client: str | None, key: str) -> None:
    assert limit_key(client_address(client, [], settings())) == key


@pytest.mark.parametrize("name", [b"x-forwarded-for", b"forwarded", b"x-real-ip", b"client-ip", b"via"])
def test_a_client_without_a_proxy_claims_nothing(name: bytes) -> None:
    for claim in ("198.51.100.1", "for=198.51.100.1", PROXY, "x" * 1000, '"'):
        assert called(CLIENT, claim, name=name) == CLIENT
        assert called(CLIENT, claim, name=name, header="Forwarded") == CLIENT
        assert called("", claim, name=name) == "None"


def test_no_proxy_is_trusted_unless_it_was_declared() -> None:
    assert called(PROXY, "198.51.100.1", proxies=[]) == PROXY
    assert NetworkSettings().proxies == ()


@pytest.mark.parametrize(
    ("values", "client"),
    [
        ([CLIENT], CLIENT),
        ([f"198.51.100.1, {CLIENT}"], CLIENT),
        (["198.51.100.1", CLIENT], CLIENT),
        ([f"198.51.100.1, {CLIENT}, 10.0.0.2"], CLIENT),
        ([f"198.51.100.1, {CLIENT}", "10.0.0.2,10.9.9.9"], CLIENT),
        ([f"10.0.0.3, {CLIENT}"], CLIENT),
        ([f"{CLIENT}:51234"], CLIENT),
        (["[2001:db8::7]:51234"], "2001:db8::7"),
        (["::ffff:192.0.2.7"], CLIENT),
        ([f"{CLIENT}, ::ffff:10.0.0.2"], CLIENT),
        ([f"{CLIENT}, 2001:db8:ffff::1"], CLIENT),
        ([f" ,, {CLIENT} ,\t, "], CLIENT),
        ([f"x, {CLIENT}"], CLIENT),
        ([f"{CLIENT}, x"], PROXY),
        ([f"{CLIENT}, unknown, 10.0.0.2"], "10.0.0.2"),
        (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ([""], PROXY),
        ([], PROXY),
        ([f"{CLIENT}, 10.0.1.0"], "10.0.1.0"),
    ],
)
def test_the_walk_goes_from_the_right_as_far_as_proxies_vouch(values: list[str], client: str) -> None:
    assert called(PROXY, *values) == client
    assert called(f"::ffff:{PROXY}", *values).removeprefix("::ffff:") == client


HEADER = st.text(st.characters(max_codepoint=255), max_size=80)


@given(st.lists(HEADER, max_size=3), HEADER)
def test_whatever_a_client_sends_first_it_stays_itself(lines: list[str], start: str) -> None:
    """The proxy appends to the last line, or adds one."""
    for appended in ([*lines, f"{start}, {CLIENT}"], [*lines, start, CLIENT]):
        assert called(PROXY, *appended) == CLIENT


PIECES = st.lists(
    st.sampled_from(['"', "\\", ",", ";", "=", " ", "for", "by", "for=", "1.1.1.1", "for=1.1.1.1", '""', "x"])
)


@given(st.lists(HEADER | PIECES.map("".join), max_size=2), HEADER | PIECES.map("".join))
def test_whatever_a_client_forwards_it_stays_itself_or_is_refused(lines: list[str], start: str) -> None:
    for element in (
        f"for={CLIENT}",
        f'for="{CLIENT}:80";proto=https',
        f'proto=https;for="{CLIENT}";by="[2001:db8::1]"',
    ):
        for appended in ([*lines, f"{start}, {element}"], [*lines, start, element]):
            with suppress(Refused):
                assert called_rfc7239(PROXY, *appended) == CLIENT


@pytest.mark.parametrize(
    ("values", "client"),
    [
        ([f"for={CLIENT}"], CLIENT),
        ([f"For={CLIENT};Proto=https;By=_proxy"], CLIENT),
        ([f'for="{CLIENT}:47011"'], CLIENT),
        (['for="[2001:db8::7]:47011"'], "2001:db8::7"),
        (['for="\\1\\92.0.2.7"'], CLIENT),
        ([f'for="198.51.100.1, 10.0.0.2", for={CLIENT}'], CLIENT),
        ([f"for=198.51.100.1, for={CLIENT}, for=10.0.0.2"], CLIENT),
        ([f"for=198.51.100.1,for={CLIENT}", 'for="10.0.0.2"'], CLIENT),
        ([f"for={CLIENT} ; proto=https ,, "], CLIENT),
        ([f"for={CLIENT};;"], CLIENT),
        ([f"for={CLIENT}, for=unknown"], PROXY),
        ([f"for={CLIENT}, for=_hidden"], PROXY),
        ([f"for={CLIENT}, proto=https"], PROXY),
        ([""], PROXY),
    ],
)
def test_rfc_7239(values: list[str], client: str) -> None:
    assert called_rfc7239(PROXY, *values) == client


@pytest.mark.parametrize(
    "value",
    [
        'for="192.0.2.7',
        "for=[2001:db8::7]",
        "for",
        "for=",
        "=x",
        "for=1.1.1.1;for=2.2.2.2",
        "for = x",
        "for=x y",
        '"',
        "for=é",
    ],
)
def test_a_malformed_header_is_refused_where_it_would_be_believed(refusing: Refusing, value: str) -> None:
    with refusing("forwarded_malformed", 400):
        called_rfc7239(PROXY, value)
    assert called_rfc7239(CLIENT, value) == CLIENT


def test_only_the_header_that_proxies_write_is_read() -> None:
    said = [(b"forwarded", b"for=198.51.100.1"), (b"x-forwarded-for", CLIENT.encode())]
    for headers in (said, said[::-1]):
        assert str(client_address(PROXY, headers, settings())) == CLIENT
        assert str(client_address(PROXY, headers, settings(header="Forwarded"))) == "198.51.100.1"
    assert called(PROXY, CLIENT, name=b"X-Forwarded-For") == CLIENT
    for name in (b"x_forwarded_for", b"forwarded", b"x-real-ip"):
        assert called(PROXY, CLIENT, name=name) == PROXY


@pytest.mark.parametrize(
    "value", [" " * 65_000 + "x", 'a="' * 20_000, ',a="' * 16_000, "a=b;" * 16_000, "\\" * 65_000, '"' * 65_000]
)
def test_no_header_takes_long(value: str) -> None:
    """Twice the length takes about twice the time; a quadratic reader would take seconds."""
    started = perf_counter()
    with suppress(Refused):
        forwarded([value])
    called(PROXY, value)
    assert perf_counter() - started < 1.0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"proxies": ["0.0.0.0/0"]}, "every client would be a proxy"),
        ({"proxies": ["::/0"]}, "every client would be a proxy"),
        ({"proxies": ["10.0.0.1/24"]}, "proxies"),
        ({"proxies": ["proxy.test"]}, "proxies"),
        ({"proxies": "10.0.0.0/24"}, "proxies"),
        ({"header": "X-Real-IP"}, "header"),
        ({"proxys": []}, "Did you mean 'proxies'?"),
    ],
)
def test_what_cannot_be_declared(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        settings(**changed)
    assert said in str(error.value)
