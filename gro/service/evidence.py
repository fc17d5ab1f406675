"""What a playbook's rules rest on: runs of calls with a high score, and refusals; kept of suspicious accounts only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from gro.service.playbook import Rule
from gro.service.windows import FORGOTTEN, Windows

HOUR, DAY = 3_600, 86_400


class Evidence:
    """Runs and refusals by account.

    A run is forgotten when its account has not called for a day: a thief who waits that long between calls needs years.

    Args:
        rules: that it is for.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._none = [0] * len(rules)
        self._runs: OrderedDict[str, tuple[float, list[int]]] = OrderedDict()  # the longest idle first
        self._refusals = Windows(HOUR)

    def __len__(self) -> int:
        """Accounts of which something is kept, those with both twice."""
        return len(self._runs) + len(self._refusals)

    def scored(self, account: str, score: float, calls: int, now: float) -> None:
        """Calls were answered."""
        longer = [
            min(run + calls, rule.when.for_calls) if rule.when.score is not None and score >= rule.when.score else 0
            for run, rule in zip(self._lengths(account, now), self._rules, strict=True)
        ]
        self._runs.pop(account, None)
        if any(longer):
            self._runs[account] = now, longer
            self._forget(now)

    def refused(self, account: str, calls: int, now: float) -> None:
        """Calls were refused."""
        self._refusals.add(account, now, calls)

    def met(self, account: str, alarm: bool, now: float) -> list[Rule]:
        """Rules whose condition holds."""
        refusals = self._refusals.used(account, now, HOUR)
        return [
            rule
            for rule, run in zip(self._rules, self._lengths(account, now), strict=True)
            if (rule.when.score is None or run >= rule.when.for_calls)
            and alarm >= rule.when.alarm
            and refusals >= (rule.when.refusals_per_hour or 0)
        ]

    def drop(self, account: str) -> None:
        """Forget an account."""
        self._runs.pop(account, None)
        self._refusals.drop(account)

    def _lengths(self, account: str, now: float) -> list[int]:
        """Of the account's runs, by rule."""
        seen, runs = self._runs.get(account, (now, self._none))
        return runs if _lasts(seen, now) else self._none

    def _forget(self, now: float) -> None:
        for _ in range(FORGOTTEN):
            account, (seen, _runs) = next(iter(self._runs.items()))
            if _lasts(seen, now):
                break
            del self._runs[account]


def _lasts(seen: float, now: float) -> bool:
    """Whether a run still counts; one of a future day, before the clock went back, does not."""
    return abs(now - seen) < DAY
