"""Sessions: after one authentication with a key or a token, a short-lived reference token stands for the account.

Time-outs are, by default, those of NIST SP 800-63B-4 for its highest level (AAL3): 15 minutes without a call, 12 hours
in all. An account has at most ``per_account`` sessions and the service at most ``total``: who asks for one more is
refused, since ending another's session would let whoever has stolen a key push its owner out. A session cannot open
another, so its life ends without a new authentication. Sessions are kept in memory and end with the process.

Only differences of times count, and a clock that goes back counts as one that stands still: it extends no session by
more than the time between the two calls that it was set back between.

ASVS 5.0: 7.1.1 and 7.1.2 (the paragraph above), 7.2.1, 7.2.2 and 7.2.3 (reference tokens of 256 bits, verified here),
7.3.1 (inactivity), 7.3.2 (absolute lifetime), 7.4.1 (what is closed or over is forgotten).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass

from gro.config import PositiveFloat, PositiveInt, Settings
from gro.service.access.refusals import invalid
from gro.service.access.secret import ALPHABET, CHARACTERS, digest, draw
from gro.service.core import Principal, Refused

PREFIX = "gros_"
CREDENTIAL = "session:"
"""What the public name of a session begins with."""
_PRESENTED = re.compile(rf"{PREFIX}[{ALPHABET}]{{{CHARACTERS}}}")


class SessionSettings(Settings):
    """How long sessions last and how many there may be."""

    idle: PositiveFloat = 900.0
    """Seconds without a call after which a session ends."""
    lifetime: PositiveFloat = 43_200.0
    """Seconds after which a session ends, however busy it is."""
    per_account: PositiveInt = 10
    """Sessions of one account at a time."""
    total: PositiveInt = 10_000
    """Sessions of all accounts at a time."""


@dataclass(slots=True)
class Session:
    """A session.

    Attributes:
        principal: whom it stands for; its credential is the session's public name.
        opened_by: credential that opened it.
        opened: when, in seconds of :class:`Sessions`.
        used: when it was last.
    """

    principal: Principal
    opened_by: str
    opened: float
    used: float


class Sessions:
    """The open sessions of one process; each method takes the time that a call takes, however many there are."""

    def __init__(self, settings: SessionSettings) -> None:
        self._settings = settings
        self._open: OrderedDict[str, Session] = OrderedDict()  # by the hash of the token, the longest idle first
        self._of: dict[str, set[str]] = {}  # hashes by account
        self._last: float | None = None
        self._elapsed = 0.0

    def __len__(self) -> int:
        return len(self._open)

    def open(self, principal: Principal, now: float) -> str:
        """Open a session for whoever just showed a key or a token.

        Returns:
            The session's token, to be sent as a bearer token; it is not kept.

        Raises:
            Refused: 403; the caller showed a session. 429; the account has as many sessions as it may. 503; all have.
        """
        if principal.credential.startswith(CREDENTIAL):
            raise Refused(403, "session_from_session", "a session cannot open another; show a key or a token")
        elapsed = self._passed(now)
        self._close_ended(principal.account, elapsed)
        if len(self._of.get(principal.account, ())) >= self._settings.per_account:
            raise Refused(429, "sessions_of_account", "the account has too many sessions; close one")
        if len(self._open) >= self._settings.total:
            raise Refused(503, "sessions_total", "try again later")
        token = f"{PREFIX}{draw()}"
        mark = digest(token)
        stands_for = Principal(principal.account, principal.roles, f"{CREDENTIAL}{mark[:16]}")
        self._open[mark] = Session(stands_for, principal.credential, elapsed, elapsed)
        self._of.setdefault(principal.account, set()).add(mark)
        return token

    def use(self, presented: str, now: float) -> Session:
        """Find a session and count the call as activity.

        Raises:
            Refused: 401; the session is unknown, was closed or is over.
        """
        if not _PRESENTED.fullmatch(presented):
            raise invalid("session_malformed")
        elapsed, mark = self._passed(now), digest(presented)
        session = self._open.get(mark)  # by its hash: how long a miss takes tells nothing of any token
        if session is None:
            raise invalid("session_unknown")
        if ended := self._ended(session, elapsed):
            self._drop(mark)
            raise invalid(ended)
        session.used = elapsed
        self._open.move_to_end(mark)
        return session

    def close(self, presented: str) -> None:
        """End a session; one that is not open is none."""
        self._drop(digest(presented))

    def close_account(self, account: str) -> int:
        """End every session of an account, as when it is suspended or its keys are changed; return how many."""
        marks = tuple(self._of.get(account, ()))
        for mark in marks:
            self._drop(mark)
        return len(marks)

    def _passed(self, now: float) -> float:
        """Seconds that have passed since the first call, by a clock that never goes back."""
        if self._last is not None:
            self._elapsed += max(0.0, now - self._last)
        self._last = now
        return self._elapsed

    def _ended(self, session: Session, elapsed: float) -> str:
        if elapsed - session.opened >= self._settings.lifetime:
            return "session_over"
        return "session_idle" if elapsed - session.used >= self._settings.idle else ""

    def _close_ended(self, account: str, elapsed: float) -> None:
        """Make room: end the account's sessions that are over, and whichever have been idle for too long."""
        for mark in tuple(self._of.get(account, ())):
            if self._ended(self._open[mark], elapsed):
                self._drop(mark)
        while self._open and self._ended(next(iter(self._open.values())), elapsed):
            self._drop(next(iter(self._open)))

    def _drop(self, mark: str) -> None:
        session = self._open.pop(mark, None)
        if session is not None:
            account = session.principal.account
            self._of[account].remove(mark)
            if not self._of[account]:
                del self._of[account]
