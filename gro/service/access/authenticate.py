"""Who calls: one credential of one kind, or an answer that says the same whatever is wrong.

The ways in, all of the same strength: an API key (``X-API-Key`` or ``Authorization: Bearer``), a JWT and a session
(both ``Authorization: Bearer``), told apart by how they begin. There is no other: not in the URL, in cookies, or by
network.

ASVS 5.0: 6.1.3 and 6.3.4 (the paragraph above), 6.3.8 (no account can be told from an answer), 8.2.1 (a role for each
function, none by default), 8.3.1, 14.2.1 (credentials in headers only), 15.3.7 (a header given twice is refused),
16.5.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from gro.service.access import keys as api_keys
from gro.service.access import sessions as reference
from gro.service.access.keys import KeyStore
from gro.service.access.refusals import ambiguous, forbidden, invalid, missing
from gro.service.access.sessions import Sessions
from gro.service.access.tokens import Tokens
from gro.service.core import Principal, Role

BEARER = re.compile(rb"(?i:bearer) +([A-Za-z0-9._~+/-]+=*)")
"""RFC 6750, section 2.1; the name of a scheme is in any case (RFC 9110, section 11.1)."""
HEADERS = frozenset({b"authorization", b"x-api-key"})


class Authenticator:
    """Finds the principal of a request.

    Args:
        keys: None takes no API keys.
        tokens: None takes no JWTs.
        sessions: None takes no sessions.
        clock: Unix seconds.
    """

    def __init__(
        self,
        keys: KeyStore | None,
        tokens: Tokens | None,
        sessions: Sessions | None,
        clock: Callable[[], float],
    ) -> None:
        self._keys, self._tokens, self._sessions, self._clock = keys, tokens, sessions, clock

    def authenticate(self, headers: Iterable[tuple[bytes, bytes]]) -> Principal:
        """Say who sent these headers, ASGI's.

        Raises:
            Refused: 401; there is no credential, or none that is valid. 400; there are several. 503; see
                :meth:`Tokens.verify`.
        """
        shown = [(lowered, value) for name, value in headers if (lowered := name.lower()) in HEADERS]
        if not shown:
            raise missing()
        if len(shown) > 1:
            raise ambiguous("credentials_several")
        name, value = shown[0]
        now = self._clock()
        if name == b"x-api-key":
            return self._by_key(value.decode("latin-1"), now)
        bearer = BEARER.fullmatch(value)
        if bearer is None:
            raise missing("scheme_unknown")
        return self._by_bearer(bearer[1].decode("ascii"), now)

    def _by_bearer(self, presented: str, now: float) -> Principal:
        if presented.startswith(api_keys.PREFIX):
            return self._by_key(presented, now)
        if presented.startswith(reference.PREFIX):
            return self._by_session(presented, now)
        if self._tokens is None:
            raise invalid("tokens_not_taken")
        return self._tokens.verify(presented, now)

    def _by_key(self, presented: str, now: float) -> Principal:
        if self._keys is None:
            raise invalid("keys_not_taken")
        return self._keys.verify(presented, now)

    def _by_session(self, presented: str, now: float) -> Principal:
        """A session stands as long as the key that opened it."""
        if self._sessions is None:
            raise invalid("sessions_not_taken")
        session = self._sessions.use(presented, now)
        if session.opened_by.startswith(api_keys.CREDENTIAL) and not self._stands(session.opened_by, now):
            self._sessions.close(presented)
            raise invalid("session_key_ended")
        return session.principal

    def _stands(self, credential: str, now: float) -> bool:
        return self._keys is not None and self._keys.stands(credential, now)


def bearer(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return what a request shows as its bearer token; empty where it shows none."""
    for name, value in headers:
        if name.lower() == b"authorization" and (shown := BEARER.fullmatch(value)):
            return shown[1].decode("ascii")
    return ""


def require(principal: Principal, role: Role) -> None:
    """Let a principal through that has the role.

    Raises:
        Refused: 403; it has not.
    """
    if role not in principal.roles:
        raise forbidden(role)
