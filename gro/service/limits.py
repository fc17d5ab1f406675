"""Rate limits: budgets of calls and list entries per key, account and network and of the whole service.

A batch is charged to every budget or to none. In memory that takes no lock: nothing waits in between. With many
replicas one script in Redis does it (:mod:`gro.service.store`), and each replica also counts what it let through
itself: a store that comes back empty does not give that away again. How long counts last is said in
:mod:`gro.service.windows`.

What happens without the store is stated, not accidental. ``deny`` refuses every call. ``degrade`` goes on with a share
of each budget per replica, less what that replica let through before: all replicas together then let through at most
the share times their number again. Either way the decision says so and the change is told.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, SecretStr

from gro.config import PositiveFloat, PositiveInt, Settings
from gro.errors import ConfigError, MissingExtraError
from gro.policy import Limits, read_policy
from gro.service.core import Principal, Refused
from gro.service.link import Link
from gro.service.link import StoreChange as StoreChange  # noqa: PLC0414 -- what a limiter tells is named here too
from gro.service.windows import CALLS, ENTRIES, Cost, Level, Quota, Windows, fits

if TYPE_CHECKING:
    from gro.service.store import RedisWindows

MINUTE, DAY = 60, 24 * 60 * 60
MEMORY = "async+memory://"
REDIS = ("async+redis://", "async+rediss://", "async+redis+unix://")
GONE = "limit_store_gone"
"""What binds, and the code of the refusal, where the store is gone and calls are denied."""
Share = Annotated[float, Field(gt=0, le=1)]


class Scope(StrEnum):
    """Whose calls a budget counts."""

    KEY = "key"
    ACCOUNT = "account"
    NETWORK = "network"
    GLOBAL = "global"

    @property
    def own(self) -> bool:
        """Whether it counts one account's calls alone: what a throttle shrinks and an answer may tell."""
        return self is Scope.KEY or self is Scope.ACCOUNT


@dataclass(frozen=True, slots=True)
class Budget:
    """What one scope may have within a window.

    Attributes:
        name: such as ``account_calls_per_day``; the code of its refusals.
        column: what it counts, calls or list entries, as in :mod:`gro.service.windows`.
        span: length of the window in seconds.
    """

    name: str
    scope: Scope
    column: int
    amount: int
    span: int


class Budgets(Settings):
    """Budgets beside the policy's; one that is not given does not bind."""

    calls_per_day: PositiveInt | None = None
    """Most calls in any 24 hours."""
    calls_per_minute: PositiveInt | None = None
    """Most calls in any minute."""
    list_entries_per_day: PositiveInt | None = None
    """Most list entries in any 24 hours."""


class LimitSettings(Settings):
    """What the guard lets through, and where it counts."""

    policy: str = "strict"
    """What one account may have: a shipped policy by name or the path of a policy file."""
    per_key: Budgets = Budgets()
    """What one credential may have, where an account has several."""
    per_network: Budgets = Budgets()
    """What one network may have, whatever the accounts."""
    overall: Budgets = Budgets()
    """What all may have together."""
    store: SecretStr = SecretStr(MEMORY)
    """Where counts are: "async+memory://" for one process; for many "async+redis://[:PASSWORD@]HOST[:PORT][/DB]", or
    async+rediss:// or async+redis+unix://."""
    store_timeout: PositiveFloat = 0.05
    """Seconds a charge may wait for the store."""
    store_pause: PositiveFloat = 1.0
    """Seconds for which a store that failed is left alone."""
    when_store_is_gone: Literal["deny", "degrade"] = "deny"
    """Refuse every call, or go on with this replica's own counts and a share of each budget."""
    degraded_share: Share = 0.1
    """Share of each budget that this replica lets through without the store, such as 1 / replicas."""

    def budgets(self) -> tuple[Budget, ...]:
        """Every budget that binds.

        Raises:
            ConfigError: the policy is missing or malformed.
        """
        given: Mapping[Scope, Budgets | Limits] = {
            Scope.KEY: self.per_key,
            Scope.ACCOUNT: read_policy(self.policy).limits,
            Scope.NETWORK: self.per_network,
            Scope.GLOBAL: self.overall,
        }
        return tuple(budget for scope, amounts in given.items() for budget in _budgets(scope, amounts))


def _budgets(scope: Scope, amounts: Budgets | Limits) -> Iterator[Budget]:
    windows = {
        "calls_per_minute": (CALLS, MINUTE),
        "calls_per_day": (CALLS, DAY),
        "list_entries_per_day": (ENTRIES, DAY),
    }
    for name, (column, span) in windows.items():
        if amount := getattr(amounts, name):
            yield Budget(f"{scope}_{name}", scope, column, amount, span)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a budget stands after a decision.

    Attributes:
        remaining: calls that it has left; entries are told in calls, with as many entries each as those asked for.
        quota: calls that it holds in all, when nobody is throttled.
        refuses: whether it has no room for what was asked for.
        reset: seconds until it has, or, where it has room, until the oldest calls are given back; None: never.
    """

    budget: Budget
    remaining: int
    quota: int
    refuses: bool
    reset: float | None


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether calls are let through.

    Attributes:
        bound: name of the budget that refuses, for the longest where several do, or of the one that has the least left;
            :data:`GONE` where the store is gone and calls are denied.
        remaining: calls that this budget has left.
        reset: seconds until it has room, or gives the oldest calls back; None: what was asked for never fits.
        degraded: the store is gone; the decision is this replica's alone.
        standings: of all budgets.
    """

    allowed: bool
    bound: str
    remaining: int
    reset: float | None
    degraded: bool
    standings: tuple[Standing, ...] = ()

    def headers(self) -> dict[str, str]:
        """RateLimit fields (draft-ietf-httpapi-ratelimit-headers-10) and, on a refusal, Retry-After (RFC 9110, 10.2.3).

        Only the caller's own budgets are told: those of networks and of the service are nobody's business.
        """
        own = [standing for standing in self.standings if standing.budget.scope.own]
        told = [standing for standing in own if standing.refuses or self.allowed]
        fields = {
            "RateLimit-Policy": ", ".join(f'"{s.budget.name}";q={s.quota};w={s.budget.span}' for s in own),
            "RateLimit": ", ".join(f'"{s.budget.name}";r={s.remaining}{_reset(s)}' for s in told),
            "Retry-After": "" if self.allowed or self.reset is None else str(_seconds(self.reset)),
        }
        return {name: value for name, value in fields.items() if value}

    def refusal(self) -> Refused:
        """What the caller is told of a decision that is not allowed."""
        if self.bound == GONE:
            return Refused(503, GONE, "the service cannot answer now; try again later", self.headers())
        if self.reset is None:
            return Refused(429, self.bound, "more at once than is ever allowed; ask for less", self.headers())
        return Refused(429, self.bound, "too many calls; Retry-After says when to come back", self.headers())


class Limiter:
    """Lets calls through or not.

    Args:
        clock: seconds; only differences count, so that a monotonic clock, which nobody sets, is best.
        told: is called when the store is gone, back or emptied.

    Raises:
        ConfigError: a setting is not usable.
        MissingExtraError: the store needs redis-py.
    """

    def __init__(
        self,
        settings: LimitSettings,
        clock: Callable[[], float] = time.monotonic,
        told: Callable[[StoreChange], None] = lambda change: None,
    ) -> None:
        self._settings, self._clock = settings, clock
        self._budgets = settings.budgets()
        self._windows = Windows(MINUTE, DAY)
        self._store = _store(settings)
        self._link = None
        if self._store is not None:
            self._link = Link(self._store, settings.store_pause, clock, told)

    async def charge(
        self, principal: Principal, network: str, calls: int, entries: int, factor: float = 1.0
    ) -> Decision:
        """Let calls through and charge them to every budget, or refuse and charge none.

        Args:
            principal: whose account and credential are charged.
            network: the caller's, as budgets count them.
            calls: of the batch, at least 1.
            entries: of all lists that the batch asks for.
            factor: share of their own budgets that the account and its keys have, more than 0 and at most 1.
        """
        if calls < 1 or entries < 0 or not 0 < factor <= 1:
            raise ValueError(
                f"calls is {calls}, entries {entries}, factor {factor}; they must be >= 1, >= 0 and in (0, 1]"
            )
        names = {
            Scope.KEY: principal.credential,
            Scope.ACCOUNT: principal.account,
            Scope.NETWORK: network,
            Scope.GLOBAL: "",
        }
        cost, quotas, now = (calls, entries), self._quotas(names, factor), self._clock()
        levels = self._windows.charge(quotas, cost, now)
        if self._link is None or not fits(quotas, levels, cost):
            return self._decision(quotas, levels, cost, self.store_gone)
        shared = await self._link.charge(quotas, cost)
        if shared is None or not fits(quotas, shared, cost):
            self._windows.refund(quotas, cost, now)
        return self._without_store(quotas, cost) if shared is None else self._decision(quotas, shared, cost, False)

    @property
    def store_gone(self) -> bool:
        """Whether the store is gone."""
        return self._link is not None and self._link.gone

    async def close(self) -> None:
        """Close the connections to the store."""
        if self._store is not None:
            await self._store.close()

    def __len__(self) -> int:
        """Keys, accounts and networks that are remembered: those with calls in the last 24 hours."""
        return len(self._windows)

    def _quotas(self, names: Mapping[Scope, str], factor: float) -> list[Quota]:
        return [
            Quota(
                f"{budget.scope}/{names[budget.scope]}",
                budget.span,
                budget.column,
                _shrunk(budget.amount, factor) if budget.scope.own else budget.amount,
            )
            for budget in self._budgets
        ]

    def _without_store(self, quotas: list[Quota], cost: Cost) -> Decision:
        if self._settings.when_store_is_gone == "deny":
            return Decision(False, GONE, 0, self._settings.store_pause, degraded=True)
        share = self._settings.degraded_share
        fewer = [quota._replace(amount=_shrunk(quota.amount, share)) for quota in quotas]
        return self._decision(fewer, self._windows.charge(fewer, cost, self._clock()), cost, True)

    def _decision(self, quotas: list[Quota], levels: list[Level], cost: Cost, degraded: bool) -> Decision:
        allowed = fits(quotas, levels, cost)
        entries_each = max(1, math.ceil(cost[1] / cost[0]))
        standings = tuple(
            _standing(budget, quota.amount, level, cost[budget.column - 1], allowed, entries_each)
            for budget, quota, level in zip(self._budgets, quotas, levels, strict=True)
        )
        if allowed:
            binding = min(standings, key=lambda standing: standing.remaining)
        else:
            refusing = (standing for standing in standings if standing.refuses)
            binding = max(refusing, key=lambda standing: math.inf if standing.reset is None else standing.reset)
        return Decision(allowed, binding.budget.name, binding.remaining, binding.reset, degraded, standings)


def _store(settings: LimitSettings) -> RedisWindows | None:
    uri = settings.store.get_secret_value()
    if uri == MEMORY:
        return None
    if not uri.startswith(REDIS):
        scheme = uri.partition("://")[0]
        raise ConfigError(f"'store' begins with '{scheme}'; it must be {MEMORY} or begin with {', '.join(REDIS)}")
    try:
        from gro.service.store import RedisWindows  # noqa: PLC0415 -- memory needs no redis-py
    except ImportError as error:
        raise MissingExtraError(f"'store' is in Redis, which needs {error.name}: pip install 'gro[service]'") from None
    return RedisWindows(uri, settings.store_timeout, MINUTE, DAY)


def _shrunk(amount: int, factor: float) -> int:
    return max(1, math.floor(amount * factor))


def _standing(budget: Budget, amount: int, level: Level, cost: int, allowed: bool, entries_each: int) -> Standing:
    each = entries_each if budget.column == ENTRIES else 1
    refuses = level.used + cost > amount
    left = max(0, amount - level.used - (cost if allowed else 0))
    reset = None if cost > amount else level.wait
    return Standing(budget, left // each, budget.amount // each, refuses, reset)


def _reset(standing: Standing) -> str:
    return f";t={_seconds(standing.reset)}" if standing.reset is not None else ""


def _seconds(seconds: float) -> int:
    return max(1, math.ceil(seconds))
