"""What is done to each account, by a playbook and by operators; every change of it is told, and outlives the process.

Several replicas each decide by the calls that they saw, and what one holds the others do not know: send the calls of an
account to one replica, or hold by hand on each. Each replica needs a file of its own.

Times are Unix seconds. Where the clock goes back, what a rule holds is held for as long as it still would have been. A
clock that jumps ahead is time that passes, and ends holds early: what must not end by itself has no ``for``.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from gro.errors import ConfigError
from gro.service.evidence import Evidence
from gro.service.journal import Change, Hold, Journal
from gro.service.playbook import Playbook, Rule, State

Hook = Callable[[str], Awaitable[bool]]
"""Challenges an account, which it is given by name, and says whether it passed."""
HOOK_SECONDS = 10.0
"""How long a hook may take."""
PLAYBOOK = "playbook"
"""Who made a transition that no operator made."""


@dataclass(frozen=True, slots=True)
class Response:
    """What the guard does to the calls of an account.

    Attributes:
        factor: share of its budgets that the account has.
    """

    state: State
    factor: float


CALM = Response(State.NORMAL, 1.0)


@dataclass(frozen=True, slots=True)
class Transition:
    """An account went from one state to another, or is throttled otherwise than before.

    Attributes:
        factor: share of its budgets that the account has from now on.
        why: what was observed, or what the operator gave as a reason.
        rule: name of the rule that was met or let go; empty where an operator or a challenge did it.
        by: the operator's account, or :data:`PLAYBOOK`.
        at: Unix seconds.
        until: when the new state ends by itself; None: it does not, or it is normal.
        dry_run: it was noted and not done.
    """

    account: str
    before: State
    after: State
    factor: float
    why: str
    rule: str
    by: str
    at: float
    until: float | None
    dry_run: bool


Holds = dict[tuple[str, bool], Hold]
"""What holds an account, by rule (empty: an operator) and whether a dry run made it."""


class Responses:
    """The responses to accounts; those in the normal state take no memory.

    Args:
        hooks: what the playbook's rules call, by name.
        clock: Unix seconds.
        told: receives every transition as it happens.
        path: file that keeps the states, of this process alone; None keeps them in memory.

    Raises:
        ConfigError: a rule names a hook that is not registered; or the file is damaged, foreign or in others' hands.
    """

    def __init__(
        self,
        playbook: Playbook,
        hooks: Mapping[str, Hook] = MappingProxyType({}),
        clock: Callable[[], float] = time.time,
        told: Callable[[Transition], None] = lambda transition: None,
        path: Path | None = None,
    ) -> None:
        playbook.check(hooks)
        self._playbook, self._hooks, self._clock, self._told = playbook, hooks, clock, told
        self._evidence = Evidence(playbook.rule)
        self._holds: dict[str, Holds] = {}
        self._challenged: set[str] = set()
        self._unsaved: set[str] = set()
        self._latest = clock()
        self._journal = None if path is None else Journal(path)
        if self._journal is not None:
            self._restore(self._journal)

    def __len__(self) -> int:
        """Accounts that something holds."""
        return len(self._holds)

    @property
    def dry_run(self) -> bool:
        """Whether what would be done is only told."""
        return self._playbook.dry_run

    def __iter__(self) -> Iterator[str]:
        """Accounts that something holds."""
        return iter(list(self._holds))

    def holds(self, account: str) -> tuple[Hold, ...]:
        """What holds an account, the harshest first; in a dry run, what would."""
        self._expire(account, self._now())
        return tuple(sorted(self._of(account).values(), key=lambda hold: hold.state, reverse=True))

    def response(self, account: str) -> Response:
        """What to do to a call of an account; nothing in a dry run."""
        if account not in self._holds or self._playbook.dry_run:
            return CALM
        self._expire(account, self._now())
        return _response(self._of(account).values())

    def scored(self, account: str, score: float, alarm: bool, calls: int = 1) -> None:
        """Calls were answered; ``score`` is the monitor's as a share of its threshold."""
        if not (math.isfinite(score) and calls > 0):
            raise ValueError(f"score is {score}, calls is {calls}; they must be finite and at least 1")
        now = self._now()
        self._evidence.scored(account, score, calls, now)
        self._judge(account, alarm, now, f"score {score:.3g}")

    def refused(self, account: str, calls: int = 1) -> None:
        """Calls were refused."""
        now = self._now()
        self._evidence.refused(account, calls, now)
        self._judge(account, alarm=False, now=now, seen="a refusal")

    async def challenge(self, account: str) -> bool:
        """Challenge an account whose response is that; whether it passed and is let go.

        One challenge at a time: calls that come meanwhile have not passed.

        Raises:
            TimeoutError: the hook took more than :data:`HOOK_SECONDS`. That, or what else a hook raises, frees nobody.
        """
        if self.response(account).state is not State.CHALLENGE or account in self._challenged:
            return False
        hook = next(hold.hook for hold in self.holds(account) if hold.hook is not None)
        self._challenged.add(account)
        try:
            async with asyncio.timeout(HOOK_SECONDS):
                passed = await self._hooks[hook](account) is True
        finally:
            self._challenged.discard(account)
        if passed:
            self._evidence.drop(account)
            kept = {key: hold for key, hold in self._of(account).items() if hold.hook is None}
            self._set(account, kept, self._now(), "the challenge was passed")
        return passed

    def release(self, account: str, by: str, why: str) -> Transition | None:
        """Return an account to the normal state, whatever holds it, and forget what was observed of it.

        Returns:
            The transition, which was also told; None where the account was in the normal state.
        """
        now = self._now()
        self._expire(account, now)
        self._evidence.drop(account)
        return self._set(account, {}, now, why, by=by)

    def hold(
        self, account: str, state: State, by: str, why: str, until: float | None = None, factor: float | None = None
    ) -> Transition | None:
        """Put an account into a state, in place of whatever holds it; rules may still put it into a harsher one.

        Args:
            account: which; it need not have been seen before.
            state: any but normal.
            by: the operator's account.
            why: for the log.
            until: Unix seconds; None: until it is released.
            factor: of a throttled account, the share of its budgets; None: the least of the playbook's, or a tenth.

        Returns:
            The transition, which was also told; None where the account was in that state.

        Raises:
            ConfigError: the state is normal, ``until`` is not to come, ``factor`` is no share, or there is no hook.
        """
        now = self._now()
        if state is State.NORMAL:
            raise ConfigError("an account cannot be held in 'normal'; release it")
        if until is not None and not now < until < math.inf:
            raise ConfigError(f"'until' is {until:.0f}; it must be Unix seconds after {now:.0f}, now")
        hold = Hold(
            state,
            by,
            why,
            until,
            factor=self._factor(factor) if state is State.THROTTLE else 1.0,
            hook=self._hook() if state is State.CHALLENGE else None,
            manual=True,
            dry_run=self._playbook.dry_run,
        )
        self._expire(account, now)
        self._evidence.drop(account)
        return self._set(account, {_key(hold): hold}, now, why, by=by)

    def settle(self) -> None:
        """Let go what is over, and write what is not written; to be called every few seconds.

        Raises:
            ConfigError: the file cannot be written. The states are in force, and the next call tries again.
        """
        now = self._now()
        for account in self:
            self._expire(account, now)
        if self._journal is None:
            return
        if self._journal.stale(len(self._holds)):
            self._journal.rewrite(self._change(account) for account in self._holds)
            self._unsaved.clear()
        for account in sorted(self._unsaved):
            self._journal.append(self._change(account))
            self._unsaved.discard(account)

    def close(self) -> None:
        """Write what is not written, and leave the file to the next process.

        Raises:
            ConfigError: the file cannot be written.
        """
        try:
            self.settle()
        finally:
            if self._journal is not None:
                self._journal.close()

    def _judge(self, account: str, alarm: bool, now: float, seen: str) -> None:
        self._expire(account, now)
        met = [(rule, self._held_by(rule, now)) for rule in self._evidence.met(account, alarm, now)]
        if met:
            rule, _ = max(met, key=lambda pair: pair[0].then)
            holds = self._of(account) | {_key(hold): hold for _, hold in met}
            self._set(account, holds, now, f"{rule.when} ({seen})", rule.name)

    def _held_by(self, rule: Rule, now: float) -> Hold:
        until = None if rule.for_ is None else now + rule.for_
        why, factor = str(rule.when), rule.factor or 1.0
        return Hold(rule.then, rule.name, why, until, factor, rule.hook, dry_run=self._playbook.dry_run)

    def _factor(self, factor: float | None) -> float:
        if factor is None:
            return min((rule.factor for rule in self._playbook.rule if rule.factor), default=0.1)
        if not 0 < factor < 1:
            raise ConfigError(f"'factor' is {factor}; it must be more than 0 and less than 1")
        return factor

    def _hook(self) -> str:
        hooks = [*(rule.hook for rule in self._playbook.rule if rule.hook), *self._hooks]
        if not hooks:
            raise ConfigError("no account can be challenged: the application registered no hook")
        return hooks[0]

    def _expire(self, account: str, now: float) -> None:
        holds = self._of(account)
        over = [hold for hold in holds.values() if hold.until is not None and hold.until <= now]
        if over:
            last = max(over, key=lambda hold: hold.state)
            kept = {key: hold for key, hold in holds.items() if hold not in over}
            self._set(account, kept, now, f"its time is over: {last.why}", "" if last.manual else last.by)

    def _set(
        self, account: str, holds: Holds, now: float, why: str, rule: str = "", by: str = PLAYBOOK
    ) -> Transition | None:
        """Replace what holds an account: the one place where a response changes."""
        old = self._of(account)
        if holds == old:
            return None
        self._unsaved.add(account)
        if holds:
            self._holds[account] = holds
        else:
            del self._holds[account]
        before, after = _response(old.values()), _response(holds.values())
        if before == after:
            return None
        self._save(account)
        until, dry_run = _until(holds.values(), after.state), self._playbook.dry_run
        made = Transition(account, before.state, after.state, after.factor, why, rule, by, now, until, dry_run)
        self._told(made)
        return made

    def _of(self, account: str) -> Holds:
        return self._holds.get(account, {})

    def _change(self, account: str) -> Change:
        return Change(at=self._latest, account=account, holds=tuple(self._of(account).values()))

    def _save(self, account: str) -> None:
        """Write a transition at once; where that fails, :meth:`settle` tries again and says so."""
        if self._journal is not None:
            with suppress(ConfigError):
                self._journal.append(self._change(account))
                self._unsaved.discard(account)

    def _restore(self, journal: Journal) -> None:
        changes = journal.read()
        for change in changes:
            holds = {_key(hold): hold for hold in change.holds if self._playbook.dry_run or not hold.dry_run}
            for hook in {hold.hook for hold in holds.values()} - {None, *self._hooks}:
                raise ConfigError(f"account '{change.account}' is held for hook '{hook}', which is not registered")
            if holds:
                self._holds[change.account] = holds
        self._latest = max((change.at for change in changes), default=self._latest)
        self._now()

    def _now(self) -> float:
        now = self._clock()
        if now < self._latest:
            self._move(now - self._latest)
        self._latest = now
        return now

    def _move(self, seconds: float) -> None:
        """Move the ends of what rules hold; an operator gave a date."""
        for account, holds in self._holds.items():
            self._holds[account] = {
                key: hold if hold.until is None or hold.manual else replace(hold, until=hold.until + seconds)
                for key, hold in holds.items()
            }
            self._unsaved.add(account)


def _key(hold: Hold) -> tuple[str, bool]:
    return "" if hold.manual else hold.by, hold.dry_run


def _response(holds: Iterable[Hold]) -> Response:
    held = list(holds)
    return Response(max(hold.state for hold in held), min(hold.factor for hold in held)) if held else CALM


def _until(holds: Iterable[Hold], state: State) -> float | None:
    ends = (math.inf if hold.until is None else hold.until for hold in holds if hold.state is state)
    last = max(ends, default=math.inf)
    return last if last < math.inf else None
