"""The guard itself, for any server: who calls, whether the call is let through, and what it says about the account."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, NoReturn, Self, TypeAlias

import numpy as np

from gro.errors import ConfigError, GroError
from gro.service import events
from gro.service.access.authenticate import Authenticator, require
from gro.service.access.keys import KeyStore
from gro.service.access.network import client_address, limit_key
from gro.service.access.sessions import Sessions
from gro.service.access.tokens import Tokens
from gro.service.core import Principal, Refused, Role
from gro.service.decoys import TAKES, Decoys
from gro.service.events import Request
from gro.service.keyfile import read_key
from gro.service.limits import Decision, Limiter
from gro.service.link import StoreChange
from gro.service.logs import Logs
from gro.service.playbook import State, read_playbook
from gro.service.querylog import Call
from gro.service.responses import Hook, Response, Responses, Transition
from gro.service.settings import GuardSettings
from gro.service.telemetry import Telemetry
from gro.service.watchman import Watchman
from gro.service.wire import Question

logger = logging.getLogger(__name__)
Headers: TypeAlias = Iterable[tuple[bytes, bytes]]
Lists: TypeAlias = Sequence[Sequence[int]]
CALLER: Final = "gro.caller"
"""Where an ASGI server's ``scope["state"]`` holds the :class:`Caller` of a request."""
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
        response: what the playbook does to the account.
        headers: to send with the answer.
    """

    caller: Caller
    question: Question
    response: Response
    headers: Mapping[str, str]


class Guard:
    """Authenticates, limits, watches and answers to what it sees, without I/O of its own beyond logs and the store.

    A server calls :meth:`identify` and :meth:`admit` before it answers, and sends what :meth:`answered` returns;
    :class:`gro.service.asgi.GuardMiddleware` does that for ASGI.

    Attributes:
        settings: of every part.
        telemetry: metrics and traces.
        logs: events, audit log and query log.
        sessions: those that are open; ``None`` where there are none.
        watchman: what is known of accounts; ``None`` without a calibration.
        responses: what is done to accounts.
    """

    def __init__(
        self,
        settings: GuardSettings,
        hooks: Mapping[str, Hook] = MappingProxyType({}),
        clock: Callable[[], float] = time.time,
        telemetry: Telemetry | None = None,
    ) -> None:
        """Start guarding.

        Args:
            settings: of every part.
            hooks: challenges that the playbook names.
            clock: Unix seconds.
            telemetry: for an application that has OpenTelemetry providers of its own.

        Raises:
            GroError: a file is missing, malformed or open to others, or settings contradict each other.
        """
        self.settings, self._clock = settings, clock
        self.telemetry = telemetry or Telemetry()
        playbook = read_playbook(settings.responses.playbook)
        secret = None if settings.privacy.key_file is None else read_key(settings.privacy.key_file)
        self._decoys = Decoys.of(playbook, settings.wire.n_items, secret)
        self._keys = None if settings.keys is None else KeyStore(settings.keys)
        self._tokens = None if settings.tokens is None else Tokens(settings.tokens, clock())
        self.sessions = None if settings.sessions is None else Sessions(settings.sessions)
        self._authenticator = Authenticator(self._keys, self._tokens, self.sessions, clock)
        self._limiter = Limiter(settings.limits, told=self._store_changed)
        self.watchman = None
        if settings.monitor is not None:
            self.watchman = Watchman(settings.monitor, settings.privacy, secret, settings.wire.n_items)
            self.telemetry.watching(self.watchman.__len__)
        self.logs = Logs(settings, secret, clock, self.telemetry)
        self.responses = Responses(playbook, hooks, clock, self._changed, settings.responses.states)
        self._settling: asyncio.Task[None] | None = None
        self.logs.note(events.service_started())

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Begin to let go and write, every few seconds, what is done to accounts."""
        await self.logs.kept()
        self._settling = asyncio.create_task(self._settle())

    async def close(self) -> None:
        """Write what waits and close everything."""
        if self._settling is not None:
            self._settling.cancel()
        self.responses.close()
        self.logs.note(events.service_stopped())
        await self._limiter.close()
        await self.logs.close()

    def now(self) -> float:
        """Unix seconds by the guard's clock."""
        return self._clock()

    @property
    def trouble(self) -> tuple[str, ...]:
        """Why the guard cannot answer as its settings say; empty where it can."""
        gone = "the store of limits does not answer" if self._limiter.store_gone else None
        keys, tokens = (None if each is None else each.trouble for each in (self._keys, self._tokens))
        return tuple(filter(None, (gone, keys, tokens, self.logs.trouble)))

    def identify(
        self,
        headers: Headers,
        peer: str | None,
        method: str,
        path: str,
        role: Role | None = Role.RANK,
        trace: str | None = None,
    ) -> Caller:
        """Say who sent a request, and check that they may.

        Args:
            headers: names and values, as ASGI has them.
            peer: address at the other end of the connection.
            method: of HTTP.
            path: of the URL, without its query.
            role: that the request takes; ``None``: any.
            trace: W3C trace id of the request.

        Raises:
            Refused: 401, 403 or 400.
        """
        known, request = list(headers), Request(method, path, trace=trace)
        try:
            address = client_address(peer, known, self.settings.network)
            request = replace(request, address=None if address is None else str(address))
            principal = self._authenticator.authenticate(known)
        except Refused as refused:
            self.logs.say(events.authentication_failed(refused, request))
            raise
        caller = Caller(principal, limit_key(address), request)
        if role is not None:
            try:
                require(principal, role)
            except Refused as refused:
                self.deny(caller, refused)
        return caller

    def deny(self, caller: Caller, refused: Refused) -> NoReturn:
        """Refuse a request of a caller that is known: it is told, and counts for the playbook.

        Raises:
            Refused: always.
        """
        self.logs.say(events.access_denied(caller.principal, refused, caller.request))
        self.responses.refused(caller.principal.account)
        raise refused

    async def admit(self, caller: Caller, question: Question) -> Admission:
        """Let a question through, or say why not.

        Raises:
            Refused: 403, the account is suspended or has to pass a challenge; 429, a budget is used up; 503, the
                store of the limits or the audit log is gone and the settings say to deny.
        """
        account = caller.principal.account
        response = self.responses.response(account)
        if response.state is State.CHALLENGE and await self._passes(account):
            response = self.responses.response(account)
        if response.state is State.SUSPEND:
            self.deny(caller, suspended())
        if response.state is State.CHALLENGE:
            self.deny(caller, not_passed())
        decision = await self._charge(caller, question, response)
        await self.logs.kept()
        return Admission(caller, question, response, decision.headers())

    async def answered(self, admission: Admission, lists: Lists) -> Lists:
        """Take in what the service answered, and do what the playbook says of it.

        Args:
            admission: of the question.
            lists: of item ids, one a history; 0 is padding.

        Returns:
            The lists to send: those, or others that lead the account astray.

        Raises:
            ValueError: there are not as many lists as histories.
            Refused: 503; what was done cannot be written to the audit log, and the settings say to deny.
        """
        if admission.response.state is State.DECOY and self._decoys is not None:
            lists = self._decoys.lists(lists)
        account, now = admission.caller.principal.account, self._clock()
        for history, listed in zip(admission.question.histories, lists, strict=True):
            shown = [item for item in listed if item]
            call = Call(now, account, np.array(history, np.int64), np.array(shown, np.int64))
            self.logs.call(call)
            if self.watchman is not None:
                self._judge(self.watchman, call, admission.caller.request)
        await self.logs.kept()
        return lists

    async def release(self, operator: Caller, account: str, why: str) -> None:
        """Return an account to the normal state, and judge it by what it does from now on.

        Raises:
            Refused: 503; it cannot be written to the audit log, and the settings say to deny.
        """
        await self._intervene(operator, "release", account, why)
        if self.watchman is not None:
            self.watchman.forget(account)
        self.responses.release(account, operator.principal.account, why)
        await self.logs.kept()

    async def hold(
        self,
        operator: Caller,
        account: str,
        state: State,
        why: str,
        seconds: float | None = None,
        factor: float | None = None,
    ) -> None:
        """Put an account into a state, for ``seconds`` or until it is released; see :meth:`Responses.hold`.

        Raises:
            ConfigError: the state cannot be held.
            Refused: as :meth:`release`.
        """
        if state is State.DECOY and self._decoys is None:
            raise ConfigError(f"there are no decoys: {TAKES}")
        await self._intervene(operator, "hold", account, why)
        until = None if seconds is None else self._clock() + seconds
        self.responses.hold(account, state, operator.principal.account, why, until, factor)
        await self.logs.kept()

    def _judge(self, watchman: Watchman, call: Call, request: Request) -> None:
        judged, raised = watchman.observe(call)
        self.telemetry.scored(judged.score, alarm=raised)
        if raised:
            self.logs.note(events.alarm(call.account, judged, request))
        self.responses.scored(call.account, judged.score / judged.threshold, judged.alarm)

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
            self.logs.say(events.request_limited(caller.principal, refused, caller.request))
            self.responses.refused(caller.principal.account, calls)
            await self.logs.kept()
            raise refused
        return decision

    async def _intervene(self, operator: Caller, action: str, account: str, why: str) -> None:
        self.logs.note(
            events.operator_action(operator.principal, action, operator.request, account=account, reason=why)
        )
        await self.logs.kept()

    async def _settle(self) -> None:
        while True:
            await asyncio.sleep(SETTLED)
            try:
                self.responses.settle()
                await self.logs.kept()
            except GroError as error:
                logger.error("the states of accounts are in force and not written: %s", error)

    def _changed(self, made: Transition) -> None:
        """Tell what is done to an account from now on; who is suspended has no sessions."""
        self.logs.note(events.transition(made))
        self.telemetry.transition(str(made.after))
        if self.sessions is not None and made.after is State.SUSPEND and not made.dry_run:
            self.sessions.close_account(made.account)

    def _store_changed(self, change: StoreChange) -> None:
        self.logs.say(events.store_changed(change))
        self.telemetry.degraded(change.state == "gone")


def suspended() -> Refused:
    """The refusal of a suspended account."""
    return Refused(403, "account_suspended", "this account may not ask for lists; ask the operator of the service")


def not_passed() -> Refused:
    """The refusal of an account that is challenged."""
    return Refused(403, "challenge_not_passed", "this account has to pass a challenge first")
