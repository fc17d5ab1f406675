"""The guard itself, for any server: who calls, whether the call is let through, and what it says about the account."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self, TypeAlias

import numpy as np

from gro.errors import GroError
from gro.service import events
from gro.service.access.authenticate import Authenticator, require
from gro.service.access.keys import KeyStore
from gro.service.access.network import client_address, limit_key
from gro.service.access.sessions import Sessions
from gro.service.access.tokens import Tokens
from gro.service.audit import AuditLog
from gro.service.core import Principal, Refused, Role
from gro.service.ecs import Events
from gro.service.events import Event, Request
from gro.service.keyfile import read_key
from gro.service.limits import Decision, Limiter
from gro.service.link import StoreChange
from gro.service.monitor.detector import Judgement
from gro.service.monitor.files import read as read_calibration
from gro.service.playbook import State, read_playbook
from gro.service.privacy import Privacy
from gro.service.responses import Hook, Response, Responses
from gro.service.settings import GuardSettings
from gro.service.wire import Question

logger = logging.getLogger(__name__)
Headers: TypeAlias = Iterable[tuple[bytes, bytes]]
DESCRIPTORS: Final = {"stdout": 1, "stderr": 2}
SETTLED: Final = 5.0
"""Seconds between two times that states are let go and written."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, from where, with which request."""

    principal: Principal
    network: str
    request: Request


@dataclass(frozen=True, slots=True)
class Admission:
    """A call that is let through.

    Attributes:
        caller: who is answered.
        question: what was asked.
        response: what the playbook does to the account; a ``decoy`` is to be answered with lists that lead astray.
        headers: to send with the answer.
    """

    caller: Caller
    question: Question
    response: Response
    headers: Mapping[str, str]

    @property
    def decoy(self) -> bool:
        """Whether the lists are to lead astray."""
        return self.response.state is State.DECOY


class Guard:
    """Authenticates, limits, watches and answers to what it sees, without I/O of its own beyond logs and the store.

    A server calls :meth:`identify` and :meth:`admit` before it answers and :meth:`answered` afterwards;
    :class:`gro.service.asgi.GuardMiddleware` does that for ASGI.
    """

    def __init__(
        self,
        settings: GuardSettings,
        hooks: Mapping[str, Hook] = MappingProxyType({}),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Start guarding.

        Args:
            settings: of every part.
            hooks: challenges that the playbook names.
            clock: Unix seconds.

        Raises:
            GroError: a file is missing, malformed or open to others, or settings contradict each other.
        """
        self.settings = settings
        self._clock = clock
        self._sessions = None if settings.sessions is None else Sessions(settings.sessions)
        self._authenticator = Authenticator(
            None if settings.keys is None else KeyStore(settings.keys),
            None if settings.tokens is None else Tokens(settings.tokens, clock()),
            self._sessions,
            clock,
        )
        self._limiter = Limiter(settings.limits, told=self._store_changed)
        self._monitor = None
        if settings.monitor is not None:
            calibration = read_calibration(settings.monitor.calibration)
            self._monitor = calibration.monitor(accounts=settings.monitor.accounts, answers=settings.monitor.answers)
        self.secret = None if settings.privacy.key_file is None else read_key(settings.privacy.key_file)
        to = settings.events.to
        self._events = Events(
            to if isinstance(to, Path) else DESCRIPTORS[to],
            clock=clock,
            privacy=Privacy(settings.privacy, self.secret),
            service={"name": settings.events.service, "type": "gro", "version": version("gro")},
        )
        self._audit = None
        if settings.audit is not None:
            self._audit = AuditLog(
                settings.audit,
                read_key(settings.audit.key_file),
                clock=clock,
                failed=self._audit_failed,
            )
        playbook = read_playbook(settings.responses.playbook)
        self.responses = Responses(
            playbook, hooks, clock, lambda made: self._note(events.transition(made)), settings.responses.states
        )
        self._alarmed: set[str] = set()
        self._note(events.service_started())

    async def __aenter__(self) -> Self:
        self._settling = asyncio.create_task(self._settle())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._settling.cancel()
        await self.close()

    def identify(self, headers: Headers, peer: str | None, method: str, path: str, role: Role = Role.RANK) -> Caller:
        """Say who sent a request, and check that they may.

        Args:
            headers: names and values, as ASGI has them.
            peer: address at the other end of the connection.
            method: of HTTP.
            path: of the URL, without its query.
            role: that the request takes.

        Raises:
            Refused: 401, 403 or 400.
        """
        known = list(headers)
        address = client_address(peer, known, self.settings.network)
        request = Request(method, path, None if address is None else str(address))
        try:
            principal = self._authenticator.authenticate(known)
        except Refused as refused:
            self._events.emit(events.authentication_failed(refused, request))
            raise
        try:
            require(principal, role)
        except Refused as refused:
            self._events.emit(events.access_denied(principal, refused, request))
            raise
        return Caller(principal, limit_key(address), request)

    async def admit(self, caller: Caller, question: Question) -> Admission:
        """Let a question through, or say why not.

        Raises:
            Refused: 403, the account is suspended or has to pass a challenge; 429, a budget is used up; 503, the
                store of the limits is gone and the settings say to deny.
        """
        account = caller.principal.account
        response = self.responses.response(account)
        if response.state is State.CHALLENGE and await self._passes(account):
            response = self.responses.response(account)
        if response.state in {State.CHALLENGE, State.SUSPEND}:
            refused = suspended() if response.state is State.SUSPEND else not_passed()
            self._events.emit(events.access_denied(caller.principal, refused, caller.request))
            raise refused
        decision = await self._charge(caller, question, response)
        return Admission(caller, question, response, decision.headers())

    def answered(self, admission: Admission, lists: Sequence[Sequence[int]]) -> Judgement | None:
        """Take in what was answered, and do what the playbook says of it.

        Args:
            admission: of the question.
            lists: of item ids, one a history, as they are sent.

        Returns:
            What the monitor says of the account now; ``None`` without a monitor.
        """
        if self._monitor is None:
            return None
        account, judged = admission.caller.principal.account, None
        for history, listed in zip(admission.question.histories, lists, strict=True):
            asked, told = np.array(history, np.int64), np.array(listed, np.int64)
            judged = self._monitor.observe(account, asked, told, self._clock())
            if judged.alarm and account not in self._alarmed:
                self._note(events.alarm(account, judged, admission.caller.request))
            (self._alarmed.add if judged.alarm else self._alarmed.discard)(account)
            self.responses.scored(account, judged.score / judged.threshold, judged.alarm)
        return judged

    def release(self, operator: Caller, account: str, why: str) -> None:
        """Return an account to the normal state, and judge it by what it does from now on.

        Raises:
            Refused: 503; it cannot be written to the audit log, and the settings say to deny.
        """
        self._note(events.operator_action(operator.principal, "release", operator.request, account=account, reason=why))
        if self._monitor is not None:
            self._monitor.forget(account)
        self._alarmed.discard(account)
        self.responses.release(account, operator.principal.account, why)

    async def close(self) -> None:
        """Write what waits and close everything."""
        self.responses.close()
        self._note(events.service_stopped())
        await self._limiter.close()
        self._events.close()
        if self._audit is not None:
            self._audit.close()

    async def _passes(self, account: str) -> bool:
        try:
            return await self.responses.challenge(account)
        except Exception as error:  # noqa: BLE001 -- the application's hook; who was not seen to pass has not passed
            logger.error("a challenge failed and counts as not passed: %r", error)
            return False

    async def _charge(self, caller: Caller, question: Question, response: Response) -> Decision:
        calls = len(question.histories)
        decision = await self._limiter.charge(
            caller.principal, caller.network, calls, question.entries, response.factor
        )
        if not decision.allowed:
            refused = decision.refusal()
            self._events.emit(events.request_limited(caller.principal, refused, caller.request))
            self.responses.refused(caller.principal.account, calls)
            raise refused
        return decision

    async def _settle(self) -> None:
        while True:
            await asyncio.sleep(SETTLED)
            try:
                self.responses.settle()
            except GroError as error:
                logger.error("the states of accounts are in force and not written: %s", error)

    def _store_changed(self, change: StoreChange) -> None:
        self._events.emit(events.store_changed(change))

    def _audit_failed(self, error: Exception) -> None:
        self._events.emit(events.audit_failed(type(error).__name__))

    def _note(self, event: Event) -> None:
        """Say an event and keep it in the audit log."""
        document = self._events.emit(event)
        if self._audit is not None:
            self._audit.append(document)


def suspended() -> Refused:
    """The refusal of a suspended account."""
    return Refused(403, "account_suspended", "this account may not ask for lists; ask the operator of the service")


def not_passed() -> Refused:
    """The refusal of an account that is challenged."""
    return Refused(403, "challenge_not_passed", "this account has to pass a challenge first")
