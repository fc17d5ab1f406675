"""What proxies say of a request's way: the hops of X-Forwarded-For or Forwarded (RFC 7239), client first.

Nothing in a hop is believed here; :mod:`gro.service.access.network` decides how far to follow them. Each header is read
in time linear in its length: the repetitions are possessive.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from gro.service.core import Refused

Address = IPv4Address | IPv6Address
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_SPACE = r"[ \t]*+"
_VALUE = rf'(?:{_NAME}|"(?:[^"\\]|\\.)*+")'
_PAIR = re.compile(rf"({_NAME})=({_VALUE})")
_ELEMENT = re.compile(rf"{_SPACE}((?:{_NAME}={_VALUE})?+(?:{_SPACE};{_SPACE}(?:{_NAME}={_VALUE})?+)*+){_SPACE}(?:,|\Z)")
_PORT = r"(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
_NODE = re.compile(rf"\[([0-9A-Fa-f:.]+)(?:%[^\]]*)?\]{_PORT}|([0-9.]+){_PORT}|([0-9A-Fa-f]*:[0-9A-Fa-f:.]*)(?:%.*)?")


def address(node: str) -> Address | None:
    """Read an address as proxies write it: with or without a port, brackets or a zone; None where it is none.

    Ports and zones are dropped, and an IPv4 address within IPv6 (``::ffff:192.0.2.1``) is the IPv4 address.
    """
    found = _NODE.fullmatch(node)
    try:
        read = ip_address(next(text for text in found.groups() if text)) if found else None
    except ValueError:
        return None
    return getattr(read, "ipv4_mapped", None) or read


def x_forwarded_for(values: Sequence[str]) -> list[str]:
    """The hops of X-Forwarded-For headers, in whatever form they are."""
    return [hop for value in values for part in value.split(",") if (hop := part.strip(" \t"))]


def forwarded(values: Sequence[str]) -> list[str]:
    """The hops of Forwarded headers: the ``for`` of each element, ``unknown`` where it has none.

    Raises:
        Refused: 400; a header is malformed, so that nobody can say which part of it a proxy wrote.
    """
    return [element.get("for", "unknown") for value in values for element in _elements(value)]


def _elements(value: str) -> Iterator[dict[str, str]]:
    at = 0
    while at < len(value):
        found = _ELEMENT.match(value, at)
        pairs = _PAIR.findall(found[1]) if found else []
        element = {name.lower(): _unquoted(text) for name, text in pairs}
        if found is None or len(element) < len(pairs):
            raise Refused(400, "forwarded_malformed", "the Forwarded header is malformed")
        if element:
            yield element
        at = found.end()


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text
