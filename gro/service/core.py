"""What the parts of the guard say to each other: who calls, and why a call is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from gro.errors import GroError


class Role(StrEnum):
    """What a principal may do; each role is one thing, none includes another."""

    RANK = "rank"
    """Ask for lists."""
    OPERATE = "operate"
    """Inspect accounts, release them, change what the guard does to them."""
    AUDIT = "audit"
    """Read events and the audit log."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls.

    Attributes:
        account: what limits, monitoring and responses are kept by; one account may have several credentials.
        roles: what it may do.
        credential: public name of the key, token or session that was shown; never the secret.
    """

    account: str
    roles: frozenset[Role]
    credential: str


@dataclass(eq=False)
class Refused(GroError):  # noqa: N818 -- an answer, not a fault
    """A request that is not answered.

    Attributes:
        status: of the HTTP answer.
        code: what a program tells refusals apart by, such as ``key_expired``; for logs.
        detail: one line for the caller, which tells nothing that helps an attacker.
        headers: of the HTTP answer.
    """

    status: int
    code: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.detail}"
